"""Errors and their reasons: a closed list, told in docs/errors.md, that goes over the wire and through pickle whole."""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnx_attribution import errors
from onnx_attribution.errors import AttributionError, InvalidArgument, NotDifferentiable, Reason

ROOT = Path(__file__).parents[1]
NAMES = {kind.__name__: kind for kind in errors.KINDS}


def test_every_reason_is_its_word_and_says_what_it_means_and_what_to_do() -> None:
    assert all(one == one.name for one in Reason)
    assert all(one.meaning and one.instead for one in Reason)
    assert len({one.meaning for one in Reason}) == len(Reason)


def test_every_reason_belongs_to_errors_that_there_are_and_every_error_has_one() -> None:
    assert {name for one in Reason for name in one.errors} == {*NAMES, "check"}
    for kind in errors.KINDS:
        if kind is not NotDifferentiable:
            assert kind.__name__ in kind.default_reason.errors


def test_a_word_that_is_not_in_the_list_is_kept_and_does_not_come_into_it() -> None:
    later = Reason("OF_A_LATER_VERSION")
    assert (later, later.name, later.meaning) == ("OF_A_LATER_VERSION", "OF_A_LATER_VERSION", "")
    assert later not in list(Reason)
    assert pickle.loads(pickle.dumps(later)) == later
    with pytest.raises(ValueError, match="not a valid Reason"):
        Reason(3)  # type: ignore[arg-type]


def test_a_refusal_of_a_derivative_cannot_be_made_without_its_reason() -> None:
    with pytest.raises(TypeError, match="reason"):
        NotDifferentiable("no gradient")  # type: ignore[call-arg]


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_copy_of_an_error_holds_what_the_error_holds(way: object) -> None:
    error = NotDifferentiable("m", reason=Reason.NO_RULE, violations={"f": "v"}, code="C", node="n")
    made = way(error)  # type: ignore[operator]
    assert type(made) is NotDifferentiable
    assert (str(made), vars(made)) == ("m", vars(error))


def test_an_error_in_other_words_keeps_everything_else() -> None:
    error = InvalidArgument("m", reason=Reason.TARGET_INVALID, rank=3)
    other = error.reworded("n")
    assert (type(other), str(other), other.message, str(error)) == (InvalidArgument, "n", "n", "m")
    assert (other.reason, other.metadata) == (Reason.TARGET_INVALID, {"rank": "3"})


def test_the_page_of_errors_is_current() -> None:
    """Made anew by `python -m onnx_attribution.errors > docs/errors.md`."""
    made = subprocess.run(
        [sys.executable, "-m", "onnx_attribution.errors"], capture_output=True, check=True, text=True
    )
    assert (ROOT / "docs" / "errors.md").read_text() == made.stdout


# --- where they are raised


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("graph_tools", "server", "client", "proto", "src/onnx_attribution"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name != "reasons.py" and not path.stem.endswith(("_pb2", "_pb2_grpc")):
                yield path, ast.parse(path.read_text())


def _word(value: ast.AST) -> str:
    """`NO_PATH` for `Reason.NO_PATH` and `errors.Reason.NO_PATH`, else nothing."""
    if not isinstance(value, ast.Attribute):
        return ""
    owner = value.value
    name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
    return value.attr if name == "Reason" else ""


def test_every_reason_is_given_somewhere() -> None:
    given = {_word(node) for _, tree in _trees() for node in ast.walk(tree)} - {""}
    assert given == set(Reason.__members__)


def test_every_error_gives_a_reason_of_its_kind() -> None:
    for path, tree in _trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
            words = [_word(one.value) for one in node.keywords if one.arg == "reason"]
            if name in NAMES and words and words[0]:
                assert name in Reason[words[0]].errors, f"{path}:{node.lineno}"


def test_the_base_of_all_errors_is_an_unexpected_failure() -> None:
    assert (AttributionError("m").reason, AttributionError.status) == (Reason.INTERNAL, "INTERNAL")

"""What `make wild` calls right, refused and wrong; the models themselves are tried by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators import VJP, NodeView
from onnx_attribution.graph_tools.operators.registry import Gradients
from tests.conformance import gradients
from tests.conformance.gradients import SPREAD
from tests.wild.__main__ import summary
from tests.wild.download import file_of
from tests.wild.models import PACKAGES, Model
from tests.wild.run import Job, Line, tried

X = np.array([[0.4, -1.2, 0.7]], dtype=np.float32)
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT"}


def line(folder: Path, body: str, model: Model) -> Line:
    """The line of a net of one input x and one output y."""
    text = f'<ir_version: 10, opset_import: ["" : 18]> g (float[N,3] x) => (float[N,3] y) {{ {body} }}'
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return tried(Job("a model", path, model))


def test_a_smooth_net_is_right(tmp_path: Path) -> None:
    found = line(tmp_path, "a = Sin(x) y = Mul(a, x)", Model("", {"x": X}))
    assert (found.verdict, found.batch, found.wrong) == ("right", "dynamic", [])
    assert any(fact == "2 samples as alone" for fact in found.facts)


def test_a_rule_that_is_a_little_wrong_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = VJP["", "Sin"]

    def wrong(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
        return [g and op("Mul", g, op.like(g, 1.001)) for g in right.vjp(op, node, *gradients)]

    monkeypatch.setitem(VJP, ("", "Sin"), replace(right, vjp=wrong))
    found = line(tmp_path, "a = Sin(x) y = Mul(a, x)", Model("", {"x": X}))
    assert found.verdict == "wrong"
    assert "the gradient of" in found.wrong[0]


@pytest.mark.parametrize(
    ("expected", "verdict"), [("Round", "refused"), ("", "wrong"), ("TreeEnsemble", "wrong")]
)
def test_a_refusal_is_right_only_for_the_reason_that_is_expected(
    tmp_path: Path, expected: str, verdict: str
) -> None:
    found = line(tmp_path, "y = Round(x)", Model("", {"x": X}, refused=expected))
    assert found.verdict == verdict, found.wrong


def test_an_answer_where_a_refusal_is_expected_is_wrong(tmp_path: Path) -> None:
    assert line(tmp_path, "y = Tanh(x)", Model("", {"x": X}, refused="Tanh")).verdict == "wrong"


def test_a_file_that_cannot_be_read_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    assert tried(Job("a model", tmp_path / "model.onnx", Model("", {"x": X}))).verdict == "wrong"


def test_the_last_line_counts_models_packages_and_verdicts() -> None:
    lines = [Line("a 1 x"), Line("a 1 y", refused="why"), Line("b 2 z", wrong=["this"])]
    assert summary(lines) == "wild: 3 models of 2 packages: 1 right, 1 refused, 1 wrong"


def test_the_list_is_long_enough_permissive_and_without_twins() -> None:
    names = [(p.name, m.file) for p in PACKAGES for m in p.models]
    assert len(names) == len(set(names)) >= 20
    assert len({p.name for p in PACKAGES}) >= 10
    assert {p.licence for p in PACKAGES} <= PERMISSIVE


def test_an_ending_that_two_files_have_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").touch()
    assert file_of(tmp_path, "a/model.onnx") == tmp_path / "a" / "model.onnx"
    with pytest.raises(LookupError, match="2 files"):
        file_of(tmp_path, "model.onnx")


@pytest.mark.parametrize(
    ("spread", "factor", "verdict"), [(SPREAD, 1, "right"), (0, 1, "wrong"), (SPREAD, 1.001, "wrong")]
)
def test_a_layer_before_a_logarithm_is_moved_by_shares_of_its_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float, factor: float, verdict: str
) -> None:
    """An element is 7e-13: even the smallest step that suits the others leads below 0."""
    log = VJP["", "Log"]

    def scaled(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
        found = log.vjp(op, node, *gradients)
        return [g and op("Mul", g, op.like(g, factor)) for g in found] if factor != 1 else found

    monkeypatch.setitem(VJP, ("", "Log"), replace(log, vjp=scaled))
    monkeypatch.setattr(gradients, "SPREAD", spread)
    body = "e = Constant<value = float {4e-13}>() s = Mul(x, x) a = Add(s, e) l = Log(a) y = Mul(l, x)"
    found = line(tmp_path, body, Model("", {"x": np.array([[5e-7, -1.2, 0.7]], np.float32)}))
    assert found.verdict == verdict, found.wrong

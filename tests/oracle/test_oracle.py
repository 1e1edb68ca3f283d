"""Our attributions against the expected numbers of Captum and kundajelab/deeplift, case by case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.graph_tools.ir.convert import graph_of, model_of
from onnx_attribution.graph_tools.ir.emit import Emitter
from onnx_attribution.graph_tools.ir.reach import dependents
from onnx_attribution.graph_tools.programs import pairs
from onnx_attribution.graph_tools.walk.between import secant_of
from onnx_attribution.graph_tools.walk.differentiate import Rules
from onnx_attribution.graph_tools.walk.halves import Parts
from onnx_attribution.graph_tools.walk.reveal_cancel import carry
from onnx_attribution.methods import VarGrad
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.server.engine.rows.plan import captum_alphas, captum_weights, mean_plan
from onnx_attribution.values import Attribution, Target
from tests.methods.toys import explain, model
from tests.oracle import cases, file, nested, noise
from tests.oracle.cases import Asker
from tests.oracle.file import Json
from tests.oracle.nested import Nested

NOTHING = 1e-4
NOISE = 1e-12
"""More than the square of noise of 2e-8, which is all that a few attributions at x = x' are."""
REFERENCE = 1e-4
"""Tolerance against a library's own float32 output, relative to its largest number; Captum's tests use the same."""


def params(items: list[Json]) -> list[Any]:
    """One parameter an item, named by its id."""
    return [pytest.param(item, id=item["id"]) for item in items]


RUN = file.cases()
REFUSED = [case for case in RUN if case["kind"] == "error"]
ANSWERED = [case for case in RUN if case["kind"] != "error"]
EQUAL = file.equivalences()


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    """Returns an engine that knows the models of the file."""
    with Engine(provider="cpu", threads=2) as engine:
        yield Asker(engine)


def assert_case(case: Json, call: cases.Call, answer: Attribution, answers: list[Attribution]) -> None:
    """Everything that the file says of the case holds."""
    assert_checks(case, call, answer, answers)
    if case["id"] in noise.CASES:
        assert_nothing(call.result(answer))
        return
    assert_recorded(case, call, answer, answers)
    if "derived" in case:  # follows from completeness alone
        assert_close(call.result(answer), nested.nested(case["derived"]["attributions"]), 1e-6)


def assert_checks(case: Json, call: cases.Call, answer: Attribution, answers: list[Attribution]) -> None:
    """Every check of the case holds within the tolerance it states; of those with a caution, the sum to delta."""
    found: dict[str, Nested] = {
        "attributions": call.result(answer),
        "convergence_delta": np.repeat(np.concatenate([cases.delta(one) for one in answers]), call.copies),
    }
    slack = scatter(call, answer)
    found[call.name] = found["attributions"]
    for check in case["checks"]:
        if file.caution(case) in file.ONLY_SUMS and check["on"] != "convergence_delta":
            continue
        if check["on"] in ("multipliers", "contributions") and check["on"] != call.name:
            continue
        actual = nested.at(found[check["on"]], check.get("output_index") or [])
        if "flat_index" in check:
            actual = actual.reshape(-1)[check["flat_index"]]
        expected = np.asarray(check["expected"], dtype=np.float64)
        expected = np.broadcast_to(expected, actual.shape) if expected.size == 1 else expected
        assert actual.size == expected.size
        apart = nested.distance(actual, expected, check["mode"])
        allowed = check["atol"] + slack
        assert apart <= allowed, f"{check['on']} {check.get('output_index')}: {apart}"


def scatter(call: cases.Call, answer: Attribution) -> float:
    """The L1 distance that a library's draws and ours leave, 0 where nothing is random."""
    if not call.scattered:
        return 0.0
    return call.scattered * sum(float(layer.error_estimate.sum()) for layer in answer.layers.values())


def recorded(case: Json, call: cases.Call) -> Nested | None:
    """What the library gave when it was run, None where the file has nothing or warns of it."""
    held = case.get("reference_run") or {}
    name = "attributions" if "attributions" in held else call.name
    return None if case.get("caution") or name not in held else nested.nested(held[name])


def assert_recorded(case: Json, call: cases.Call, answer: Attribution, answers: list[Attribution]) -> None:
    """The attributions are the numbers that the library gave when it was run."""
    expected = recorded(case, call)
    if expected is None:
        return
    if call.drawn:
        assert_scattered(call, answer, expected, variation(call, answers))
        return
    if case["method"] in file.REVEALING and not call.multiplied:
        assert_close_where_it_moves(call, call.result(answer), expected)
        return
    assert_close(call.result(answer), expected)


def assert_close_where_it_moves(call: cases.Call, actual: Nested, expected: Nested) -> None:
    """Multipliers of kundajelab's RevealCancel divide by float32 differences, by a pseudocount where there is none."""
    (left,), (right,) = nested.flatten(actual), nested.flatten(expected)
    ((name, x),) = call.request.inputs.items()
    change = np.abs(x.astype(np.float64) - np.asarray(call.request.baselines[name]))
    moves = change > 0
    allowed = REFERENCE * nested.size(expected) + 2e-7 / np.where(moves, change, 1)
    assert (np.abs(left - right.reshape(left.shape))[moves] <= allowed[moves]).all()


def variation(call: cases.Call, answers: list[Attribution]) -> float | None:
    """The size of the squares of which a variance is the difference, as the library and float32 rows have it."""
    varies = isinstance(call.request.method, VarGrad)
    return nested.size(call.result(answers[0])) ** 2 if varies else None


def assert_close(
    actual: Nested, expected: Nested, tolerance: float = REFERENCE, size: float | None = None
) -> None:
    """Nested results agree, relative to the largest number of what is expected, however small it is, or to `size`."""
    left, right = nested.flatten(actual), nested.flatten(expected)
    assert len(left) == len(right)
    scale = nested.size(expected) if size is None else size
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a.reshape(-1), b.reshape(-1), rtol=0, atol=tolerance * scale)


def assert_scattered(
    call: cases.Call, answer: Attribution, expected: Nested, size: float | None = None
) -> None:
    """Our numbers and those of other draws are apart by no more than draws scatter, and rounding."""
    left, right = nested.flatten(call.result(answer)), nested.flatten(expected)
    apart = sum(float(np.abs(a.reshape(-1) - b.reshape(-1)).sum()) for a, b in zip(left, right, strict=True))
    count = sum(a.size for a in left)
    rounding = REFERENCE * count * (nested.size(expected) if size is None else size)
    assert apart <= scatter(call, answer) + rounding + NOISE


def assert_nothing(actual: Nested) -> None:
    """Every number is 0, up to the rounding of probabilities of a tenth."""
    assert nested.size(actual) <= NOTHING


def calls(case: Json) -> list[cases.Call]:
    """The calls of a case: kundajelab's speak of multipliers and of contributions."""
    if case["library"] == "captum":
        return [cases.call_of(case)]
    given = [cases.call_of(case, multiply=multiply) for multiply in (False, True)]
    return given[:1] if isinstance(given[0].request.method, cases.MULTIPLIERS) else given[::-1]


@pytest.mark.parametrize("case", params(ANSWERED))
def test_our_numbers_are_the_peers_numbers(case: Json, ask: Asker) -> None:
    for call in calls(case):
        double = file.caution(case) == file.IN_DOUBLE
        assert_case(case, call, ask(call, double=double), ask.each(call, double=double))


BATCHED = [case for case in ANSWERED if any((v or {}) != {} for v in case.get("execution_variants") or [])]


@pytest.mark.parametrize("case", params(BATCHED))
def test_the_batch_size_does_not_move_the_result(
    case: Json, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (call,) = calls(case)
    plain = ask(call)
    for variant in case["execution_variants"]:
        sizes = ("internal_batch_size", "perturbations_per_eval", "nt_samples_batch_size")
        rows = next((variant[name] for name in sizes if variant.get(name)), None)
        if rows:
            monkeypatch.setattr(evaluate, "MAX_ROWS", rows)
        answer = ask(call)
        if case["id"] in noise.CASES:
            assert_nothing(call.result(answer))
        else:
            size = variation(call, ask.each(call))
            assert_close(call.result(answer), call.result(plain), 2e-6, size)  # 256 terms in float32
        assert_checks(case, call, answer, ask.each(call))


REASONS = {
    "test_multi_target_error": "target index has 2 parts",
    "test_improper_window_shape#1": "the window of 'x2' has 4 axes; a sample has 3",
    "test_improper_window_shape#2": "no tensor or node 'window 2'",
    "test_too_large_stride#0": r"strides of 'x' are \[2, 2, 2\]; they lie between 1 and the window, \[1, 1, 2\]",
    "test_too_large_stride#1": r"strides of 'x' are \[2, 2, 2\]; they lie between 1 and the window, \[1, 1, 2\]",
    "test_improper_stride": "the strides of 'x' have 2 axes; its window has 3",
}


@pytest.mark.parametrize("case", params(REFUSED))
def test_what_the_peer_refuses_is_refused(case: Json, ask: Asker) -> None:
    if case["method"] == "DeepLiftShap":  # a scalar is no distribution there; here it is one reference
        answer = ask(cases.call_of({**case, "method": "DeepLift"}))
        assert np.abs(cases.delta(answer)).max() <= 1e-5
        return
    if case["method"] == "LRP":  # of a module that the network's graph has not: behind its output, then
        behind = file.model_of(case["model"])
        behind.graph.node.append(onnx.helper.make_node("Sigmoid", [behind.graph.output[0].name], ["last"]))
        behind.graph.output[0].name = "last"
        ask.engine.add("with a sigmoid", behind)
        call = cases.call_of(case)
        with pytest.raises(NotDifferentiable, match=r"LRP has no rule for Sigmoid .*logit=True"):
            ask.engine.attribute(
                call.request.changed(model="with a sigmoid", rules="", target=Target(index=0))
            )
        return
    (words,) = [words for name, words in REASONS.items() if name in case["id"]]
    with pytest.raises(InvalidArgument, match=words):
        ask(cases.call_of(case))


@pytest.mark.parametrize("item", params(EQUAL))
def test_two_calls_that_must_agree_agree(item: Json, ask: Asker) -> None:
    sides = []
    for side in (item["lhs"], item["rhs"]):
        kept = file.DROPPED_NOTHING.get(item["id"], 1.0)
        theirs = [kept * one for one in nested.flatten(nested.nested(side["reference_attributions"]))]
        if file.oracle()["models"][side["model"]].get("spec") is None:
            sides.append(theirs)  # a Python function that picks one neuron: the library's own gradient of it
            continue
        given = side.get("baselines")
        if isinstance(given, dict) and "callable" in given:  # it returns what the other side lists
            side = {**side, "baselines": item["lhs"]["baselines"]}
        call = cases.call_of(side)
        answer = ask(call)
        sides.append(nested.flatten(call.result(answer)))
        if item["id"] in noise.EQUIVALENCES:
            assert_nothing(sides[-1])
        elif call.drawn:
            assert_scattered(call, answer, theirs)
        else:
            assert_close(sides[-1], theirs)
    left, right = sides
    assert len(left) == len(right)
    row = rows_of(item["lhs"], item["rhs"])
    for a, b in zip(left, right, strict=True):
        assert nested.distance(a[row], b, item["mode"]) <= item["atol"]


def rows_of(lhs: Json, rhs: Json) -> Any:
    """The samples of the left side that the right side asks about: all, or the one with the same inputs."""
    for name, value in lhs["inputs"].items():
        if name in rhs["inputs"]:
            many, one = nested.array(value), nested.array(rhs["inputs"][name])
            if len(many) > 1 and len(one) == 1:
                return [k for k in range(len(many)) if np.array_equal(many[k], one[0])]
    return slice(None)


@pytest.mark.parametrize("case", params(file.tables()))
def test_quadratures_of_a_peers_name_are_its_tables(case: Json) -> None:
    name, count = case["method"], case["n_steps"]
    plan = mean_plan(name, count)
    found = {"alphas": captum_alphas(name, count), "step_sizes": captum_weights(name, count)}
    np.testing.assert_array_equal([t.weight for t in plan.fine], found["step_sizes"])
    np.testing.assert_array_equal(plan.alphas[: len(plan.fine)], found["alphas"])
    for check in case["checks"]:
        assert nested.distance(found[check["on"]], check["expected"], check["mode"]) <= 1e-12
    for key, expected in (case.get("reference_run") or {}).items():
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=1e-7)


# --- RevealCancel where the file has no call


SELECTED = [case for case in file.oracle()["cases"] if case["kind"] == "rule_selection"]
BEFORE = {
    "Dense": "z = MatMul(x, W)",
    "Conv1D": "z = Conv(x, K)",
    "Conv2D": "z = Conv(x, K)",
    "BatchNorm": "z = BatchNormalization(x, one, zero, zero, one)",
    "NoOp": "z = Identity(x)",
}


@pytest.mark.parametrize("case", params(SELECTED))
def test_genomics_default_chooses_the_peers_rule(case: Json) -> None:
    """A Relu after nothing linear is an error there; here it follows Rescale, as everything unnamed does."""
    before = [] if case["preceding"].startswith("Input") else case["preceding"].split(">")
    sides = 2 if "Conv2D" in before else 1
    shape = [2, 3] if before[:1] == ["Dense"] else [1, 2, *[3] * sides]
    weights = {
        "W": np.array([[2.0, -3.0, 1.0], [-1.0, 2.0, 1.0], [1.0, 1.0, -3.0]]),
        "K": np.array([[[1.0], [-2.0]], [[-3.0], [1.0]]]).reshape(2, 2, *[1] * sides),
        **{n: np.full(shape[1], v, np.float32) for n, v in (("one", 1.0), ("zero", 0.0))},
    }
    lines, last = [], "x"
    for k, name in enumerate(before):
        line = BEFORE[name].replace("z =", f"z{k} =").replace("(x", f"({last}")
        lines.append(line)
        last = f"z{k}"
    dims = ",".join(["N", *map(str, shape[1:])])
    used = {n: a.astype(np.float32) for n, a in weights.items() if any(f" {n}" in line for line in lines)}
    net = model(f"(float[{dims}] x) => (float[{dims}] y) {{ {' '.join(lines)} y = Relu({last}) }}", **used)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    everywhere = Target(index=(slice(None),) * (len(shape) - 1))
    with Engine(provider="cpu", threads=1) as engine:
        found = {
            m: explain(engine, net, {"x": x}, m, target=everywhere).layers["x"].values
            for m in ("deeplift_genomics_default", "deeplift_reveal_cancel", "deeplift_rescale")
        }  # fmt: skip
    ours, revealed, rescaled = found.values()
    chosen = revealed if case["expected_rule_at_relu"] == "RevealCancel" else rescaled
    np.testing.assert_array_equal(ours, chosen)
    assert np.array_equal(revealed, rescaled) == (not before), "the example tells the rules apart"


SPLIT = [case for case in file.oracle()["cases"] if case["method"].startswith("positive/negative")]


@pytest.mark.parametrize("case", params(SPLIT))
def test_the_parts_of_a_linear_layer_are_the_peers(case: Json) -> None:
    expected = {c["on"]: np.asarray(c["expected"], dtype=np.float64) for c in case["checks"]}
    found = parts_of(file.model_of(case["model"]), case)
    for name, index in (("positive_contributions", 0), ("negative_contributions", 1)):
        actual = found[index]
        wanted = expected[name]
        if actual.shape != wanted.shape:
            wanted = np.moveaxis(wanted, -1, 1)
        np.testing.assert_allclose(actual, wanted, atol=1e-6)


def parts_of(net: onnx.ModelProto, case: Json) -> list[NDArray[Any]]:
    """The positive and the negative part of the change of the last linear layer."""
    graph = graph_of(net)
    graph.toposort()
    op = Emitter(graph)
    (name,) = case["inputs"]
    references: dict[str, Any] = {name: gs.Variable("there", np.dtype(np.float32), graph.inputs[0].shape)}
    graph.inputs.append(references[name])
    moving = dependents(list(graph.nodes), [name])
    nodes = list(graph.nodes)
    pairs.clone(graph, references)
    rules = Rules(choose=secant_of(references, moving), reach=dependents)
    (last,) = [node.outputs[0] for node in nodes if node.op == "Conv"]
    parts = Parts(op, references, moving)
    carry(op, parts, rules, "everywhere")
    graph.outputs = [*parts.of(last)]
    points = {name: case["inputs"][name], "there": case["baselines"]}
    session = Backend("cpu").session(model_of(graph))
    return list(session.run({n: nested.array(a).astype(np.float32) for n, a in points.items()}).values())

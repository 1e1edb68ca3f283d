"""Several targets in one request: each has the numbers that it has alone, and work that they share is done once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import (
    Accepted,
    Attribution,
    AttributionRequest,
    Completed,
    Progress,
    References,
    Revision,
    Target,
)
from tests.method_names import FIXED_METHODS, METHODS, PATH_METHODS, SOURCE_METHODS, SUMMING_METHODS
from tests.methods.toys import Floats, model, values

W = np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]])
SMOOTH = """(double[N,3] x) => (double[N,4] y) {
    a = MatMul(x, A)
    h = Tanh(a)
    b = MatMul(h, B)
    y = Softmax<axis = 1>(b)
}"""
PARTS = """(double[N,2] a, double[N,2] b) => (double[N,2] both, double[N,2] alone) {
    p = Mul(a, b)
    both = Exp(p)
    alone = Sin(a)
}"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    rng = np.random.default_rng(0)
    with Engine(provider="cpu", threads=1) as made:
        made.add("linear", model("(double[N,2] x) => (double[N,3] y) { y = MatMul(x, W) }", W=W))
        made.add("smooth", model(SMOOTH, A=rng.normal(size=(3, 5)), B=rng.normal(size=(5, 4))))
        made.add("parts", model(PARTS))
        made.add(
            "alone", model("(double[2,3] x) => (double[3,2] y) { t = Transpose<perm=[1,0]>(x) y = Tanh(t) }")
        )
        yield made


def points(*shape: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=shape)


def assert_each_as_alone(engine: Engine, several: AttributionRequest) -> Attribution:
    """Compares the answer, target by target, with those of requests about one."""
    answer = engine.attribute(several)
    assert several.targets is not None
    assert len(answer.targets) == len(several.targets)
    for k, target in enumerate(several.targets):
        alone = engine.attribute(several.changed(target=target))
        assert list(answer.layers) == list(alone.layers)
        for name, layer in alone.layers.items():
            found = answer.layers[name]
            assert found.values.shape == (len(several.targets), *layer.values.shape)
            for field in ("values", "sum", "residual", "error_estimate", "spread"):
                wanted, got = getattr(layer, field), getattr(found, field)[k]
                np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9, err_msg=field)
        assert (answer.targets[k].tensor, answer.targets[k].index) == (
            alone.target.tensor,
            alone.target.index,
        )
        np.testing.assert_allclose(answer.targets[k].value, alone.target.value, rtol=1e-6)
        np.testing.assert_allclose(answer.targets[k].baseline_value, alone.target.baseline_value, rtol=1e-6)
        if alone.joint_residual is not None:
            assert answer.joint_residual is not None
            np.testing.assert_allclose(answer.joint_residual[k], alone.joint_residual, atol=1e-9)
        assert answer.each()[k].layers.keys() == alone.layers.keys()
    return answer


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_of_a_linear_model_they_are_the_columns_of_its_weights(engine: Engine, method: str) -> None:
    x = points(3, 2)
    answer = engine.attribute(AttributionRequest("linear", {"x": x}, method, targets=[2, 0]))
    wanted: Floats = np.stack(
        [np.broadcast_to(W[:, t], x.shape) * (1 if method == "gradient" else x) for t in (2, 0)]
    )
    np.testing.assert_allclose(values(answer), wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(answer.layers["x"].sum, wanted.sum(axis=2), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose([one.value for one in answer.targets], (x @ W).T[[2, 0]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("samples", [1, 3])
def test_each_has_the_numbers_that_it_has_alone(engine: Engine, method: str, samples: int) -> None:
    targets = [
        Target(index=1),
        Target(index=list(range(samples)), minus=3),
        Target("b", index=np.array([0.5, -1.0, 0.0, 2.0])),
        Target("h", index=[[(0,), (4,)]]),
        Target(index=2, logit=True, mean_centred=True),
        Target(),
    ]
    layers = ["a"] if method in SOURCE_METHODS else ["a", "x"]
    request = AttributionRequest(
        "smooth", {"x": points(samples, 3)}, method, layers, targets=targets, steps=8
    )
    assert_each_as_alone(engine, request)


@pytest.mark.parametrize("method", METHODS)
def test_references_sources_and_a_joint_residual_go_with_them(engine: Engine, method: str) -> None:
    x = {"a": points(2, 2), "b": points(2, 2, seed=2)}
    low = {
        "a": References(points(3, 2, seed=3)),
        "b": References(points(2, 3, 2, seed=4), per_sample=True),
    }
    request = AttributionRequest("parts", x, method, baselines=low, targets=[0, [0, 1]], steps=8)
    answer = assert_each_as_alone(engine, request.changed(targets=[Target("both", i) for i in (0, [0, 1])]))
    joint = method in SUMMING_METHODS
    assert (answer.joint_residual is not None) == joint
    if joint:
        assert answer.joint_residual is not None
        assert answer.joint_residual.shape == (2, 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("samples", [1, 2])
def test_a_model_that_takes_one_sample_a_run_has_them_too(engine: Engine, method: str, samples: int) -> None:
    x = points(samples, 2, 3) if samples > 1 else points(2, 3)
    request = AttributionRequest("alone", {"x": x}, method, targets=[(0, 1), (2, 0)], steps=4)
    assert assert_each_as_alone(engine, request).batch == "single"


@pytest.mark.parametrize("method", METHODS)
def test_one_whose_samples_mix_leaves_the_numbers_of_the_others(engine: Engine, method: str) -> None:
    text = (
        "(double[N,2] x) => (double[N,2] y, double[N,2] mixed) { y = Tanh(x) mixed = Softmax<axis = 0>(y) }"
    )
    engine.add("mixing", model(text))
    targets = [Target("mixed", 0), Target("y", [0, 1, 1]), Target("y", 0, minus=1)]
    request = AttributionRequest("mixing", {"x": points(3, 2)}, method, targets=targets, steps=8)
    answer = assert_each_as_alone(engine, request)
    assert any(text.startswith("rows are evaluated one by one") for text in answer.warnings)


def test_one_in_a_list_has_an_axis_too(engine: Engine) -> None:
    answer = engine.attribute(AttributionRequest("linear", {"x": points(3, 2)}, "gradient", targets=[1]))
    assert answer.layers["x"].values.shape == (1, 3, 2)
    assert answer.target is answer.targets[0]
    (alone,) = answer.each()
    assert alone.layers["x"].values.shape == (3, 2)
    assert alone.each() == (alone,)


def test_rows_of_an_array_are_weights_of_targets(engine: Engine) -> None:
    answer = engine.attribute(
        AttributionRequest("linear", {"x": points(1, 2)}, "gradient", targets=np.eye(3))
    )
    np.testing.assert_allclose(values(answer)[:, 0], W.T)


def test_occlusion_evaluates_its_groups_once_for_all(engine: Engine) -> None:
    x = {"x": points(2, 3)}
    targets: list[Target] = [Target(index=k) for k in range(4)] + [Target("h", 1)]
    several = engine.attribute(AttributionRequest("smooth", x, "occlusion", targets=targets))
    alone = engine.attribute(AttributionRequest("smooth", x, "occlusion", target=targets[0]))
    assert several.evaluations == alone.evaluations == 2 * 2 + 2 * 3


@pytest.mark.parametrize("method", METHODS)
def test_progress_counts_what_the_answer_says(engine: Engine, method: str) -> None:
    request = AttributionRequest("smooth", {"x": points(2, 3)}, method, targets=[0, 1, 2], steps=8)
    events = list(engine.stream(request))
    accepted, answer = events[0], events[-2].attribution  # type: ignore[union-attr]
    assert isinstance(accepted, Accepted)
    assert accepted.target_tensor == "y"
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done[-1] == answer.evaluations
    kept = 2 if method == "deeplift_rescale" else 0  # the reference of the first target serves the others
    assert accepted.planned_evaluations == done[-1] + kept
    assert done == sorted(done)


@pytest.mark.parametrize("method", sorted(PATH_METHODS))
def test_a_tolerance_is_met_by_all_of_them(engine: Engine, method: str) -> None:
    easy, hard = Target("a", 0), Target("y", 1)
    x = {"x": 3 * points(2, 3)}
    request = AttributionRequest("smooth", x, method, ["x"], targets=[easy, hard], steps=2, tolerance=1e-3)
    events = list(engine.stream(request))
    revisions = [event for event in events if isinstance(event, Revision)]
    end = events[-1]
    assert isinstance(end, Completed)
    assert end.stop_reason == "converged"
    assert len(revisions) == len(list(engine.stream(request.changed(target=hard)))) - sum(
        not isinstance(event, Revision) for event in engine.stream(request.changed(target=hard))
    )
    for layer in (one.layers["x"] for one in revisions[-1].attribution.each()):
        norm = np.abs(layer.values).sum(axis=1)
        assert (layer.error_estimate <= 1e-3 * norm + 1e-12).all()


def test_a_warning_says_which_targets_it_is_about(engine: Engine) -> None:
    targets = [Target("b", 0), Target("y", 0), Target("y", 1), Target("h", 2)]
    request = AttributionRequest("smooth", {"x": np.zeros((1, 3))}, "neuron_ig", targets=targets)
    warnings = engine.attribute(request).warnings
    assert sum("the baseline of 'x' is the input itself" in text for text in warnings) == 1
    (softmax,) = [text for text in warnings if "which saturates" in text]
    assert softmax.startswith("targets 1, 2: the target 'y' is made by Softmax")
    assert not any(text.startswith("target") and "itself" in text for text in warnings)


def test_not_finite_numbers_are_told_of_their_target_only(engine: Engine) -> None:
    text = "(double[N,1] x) => (double[N,1] log, double[N,1] square) { log = Log(x) square = Mul(x, x) }"
    engine.add("logs", model(text))
    targets = [Target("log"), Target("square")]
    request = AttributionRequest("logs", {"x": np.array([[0.0], [2.0]])}, "gradient", targets=targets)
    answer = engine.attribute(request)
    np.testing.assert_array_equal(answer.layers["x"].values[1], [[0], [4]])
    told = [text for text in answer.warnings if "NaN or infinite" in text]
    assert told
    assert all(text.startswith("target 0: ") for text in told)


REFUSALS: dict[str, tuple[Any, str]] = {
    "empty": ([], "the list of targets is empty"),
    "one target": (Target(index=1), "targets are a list of targets or indices, not Target"),
    "a number": (3, "targets are a list"),
    "a number of numpy": (np.array(3), "targets are a list"),
    "text": ("logits", "targets are a list"),
    "a dict": ({"a": 1}, "targets are a list"),
    "names": ([0, "logits"], r"targets\[1\] is a Target or an index, not 'logits'; .*Target\('logits'\)"),
    "a float": ([0.5], r"targets\[0\] is a Target or an index"),
    "truth": ([True], r"targets\[0\] is a Target or an index"),
    "dicts": ([{"index": 1}], r"targets\[0\] is a Target or an index"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_list_of_targets_is_refused_by_name(case: str) -> None:
    given, words = REFUSALS[case]
    with pytest.raises(InvalidArgument, match=words) as caught:
        AttributionRequest("m", {}, targets=given)
    assert caught.value.reason == "TARGET_INVALID"


def test_target_and_targets_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match="not both"):
        AttributionRequest("m", {}, target=Target(), targets=[0])


def test_a_request_changes_from_one_to_the_other() -> None:
    one = AttributionRequest("m", {}, target=3)
    assert one.target == Target(index=3)
    several = one.changed(targets=[1, 2])
    assert (several.target, several.targets) == (None, (Target(index=1), Target(index=2)))
    assert several.changed(model="n").targets == several.targets
    assert several.changed(target=Target("y")).each_target == (Target("y"),)


def test_an_answer_about_several_has_no_single_target(engine: Engine) -> None:
    answer = engine.attribute(AttributionRequest("linear", {"x": points(1, 2)}, "gradient", targets=[0, 1]))
    with pytest.raises(AttributeError, match="2 targets; they are in `targets`"):
        _ = answer.target


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([0, 3], r"targets\[1\]: the target index 3 is out of range along axis 0; legal are 0 to 2"),
        ([0, [1, 2]], r"targets\[1\]: the target has 2 entries in index; there are 3 samples"),
        ([Target("nothing"), 0], r"targets\[0\]: .*'nothing'"),
        ([0, Target(index=0, logit=True)], r"targets\[1\]: the target 'y' is not made by a Softmax"),
    ],
)
def test_a_refusal_says_which_target_it_is_about(
    engine: Engine, method: str, targets: Sequence[Target], words: str
) -> None:
    with pytest.raises(Exception, match=words):
        engine.attribute(AttributionRequest("linear", {"x": points(3, 2)}, method, targets=targets))


@pytest.mark.parametrize("method", METHODS)
def test_targets_without_common_sources_are_refused(engine: Engine, method: str) -> None:
    x = {"a": points(1, 2), "b": points(1, 2)}
    targets = [Target("both", 0), Target("alone", 0)]
    with pytest.raises(InvalidArgument, match="of 'both' are 'a', 'b', those of 'alone' are 'a'; name"):
        engine.attribute(AttributionRequest("parts", x, method, targets=targets))
    request = AttributionRequest("parts", x, method, source=["a"], targets=targets)
    assert list(assert_each_as_alone(engine, request).layers) == ["a"]


def test_a_layer_behind_one_of_them_is_refused_with_its_name(engine: Engine) -> None:
    request = AttributionRequest(
        "smooth", {"x": points(1, 3)}, "neuron_ig", ["b"], targets=[Target("y", 0), Target("a", 0)]
    )
    with pytest.raises(
        NotDifferentiable, match="layer 'b' does not lie between the source 'x' and the target 'a'"
    ):
        engine.attribute(request)


def test_samples_count_once_for_every_target(engine: Engine) -> None:
    x = {"x": np.zeros((100, 2))}
    low = {"x": References(np.zeros((2, 2)))}
    with pytest.raises(
        InvalidArgument, match="100 samples and 3 targets; it may hold 1 to 256 in all"
    ) as caught:
        engine.attribute(AttributionRequest("linear", x, "gradient", targets=[0, 1, 2]))
    assert (caught.value.metadata["limit"], caught.value.metadata["actual"]) == ("256", "300")
    with pytest.raises(InvalidArgument, match="100 samples with 2 references each and 2 targets"):
        engine.attribute(AttributionRequest("linear", x, "neuron_ig", baselines=low, targets=[0, 1]))


class Counting:
    """The rows of each run."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def ran(self, rows: int, requests: int, seconds: float) -> None:
        self.runs.append(rows)


@pytest.mark.parametrize("method", ["gradient", "gradient_x_activation", "neuron_ig"])
@pytest.mark.parametrize("targets", [[0, 1, 3], [0, Target("b", 1), 2, Target("b", 0)]])
def test_targets_in_one_tensor_share_the_run_of_the_network(method: str, targets: list[Any]) -> None:
    rng, counting = np.random.default_rng(0), Counting()
    given: dict[str, Any] = {"steps": 4} if method == "neuron_ig" else {}
    with Engine(provider="cpu", threads=1, observer=counting) as engine:
        engine.add("smooth", model(SMOOTH, A=rng.normal(size=(3, 5)), B=rng.normal(size=(5, 4))))
        request = AttributionRequest("smooth", {"x": points(2, 3)}, method, ["a"], targets=targets, **given)
        answer = assert_each_as_alone(engine, request)
        counting.runs.clear()
        engine.attribute(request)
    tensors = len({one.tensor for one in answer.targets})
    assert counting.runs == [10 if method == "neuron_ig" else 2] * tensors


@pytest.mark.parametrize("method", ["gradient", "neuron_ig", "deeplift_rescale", "deeplift_reveal_cancel"])
def test_little_memory_divides_their_rows_and_not_their_numbers(method: str) -> None:
    rng = np.random.default_rng(0)
    with Engine(provider="cpu", threads=1, memory_budget=1500) as engine:
        engine.add("smooth", model(SMOOTH, A=rng.normal(size=(3, 5)), B=rng.normal(size=(5, 4))))
        assert_each_as_alone(
            engine, AttributionRequest("smooth", {"x": points(9, 3)}, method, ["a"], targets=[0, 1, 3])
        )


@pytest.mark.parametrize(
    "method", ["gradient", "neuron_ig", "integrated_gradients", "deeplift_rescale", "lrp"]
)
def test_targets_with_nothing_before_them_have_their_numbers_too(engine: Engine, method: str) -> None:
    targets = [Target("x", 2), Target("x", 0, minus=1)]
    request = AttributionRequest("smooth", {"x": points(3, 3)}, method, ["x"], targets=targets)
    answer = assert_each_as_alone(engine, request)
    wanted: Floats = np.array([[0.0, 0, 1], [1, -1, 0]]) * (1 if method == "gradient" else points(3, 3)[0])
    np.testing.assert_allclose(values(answer)[:, 0], wanted, atol=1e-12)

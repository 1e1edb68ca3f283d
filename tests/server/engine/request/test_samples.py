"""Several samples of files whose batch is declared in every way: each has the gradient that it has alone.

The truth is made of differences of onnxruntime's own runs of the file, one sample a run, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.programs import parsed

Arrays = Mapping[str, NDArray[Any]]


class Case(NamedTuple):
    """A file, the axis of the samples of each of its inputs in what is given, and what the batch is found to be."""

    text: str
    axes: Mapping[str, int]
    batch: str
    others: tuple[int, ...] = (3,)  # the sizes of the other axes of every input
    index: Any = 1
    target: str | None = None


TIME = """t = Constant<value = int64[1] {0}>() w = Constant<value = double[3,2] {1, -1, 2, 0.5, -0.7, 0.3}>()
    h = MatMul(x, w) a = Tanh(h) y = ReduceMean<keepdims = 0>(a, t) }"""
PAIR = """p = Mul(a, b) w = Constant<value = double[3,2] {1, -1, 2, 0.5, -0.7, 0.3}>() h = MatMul(p, w)
    y = Tanh(h) }"""
WEIGHT = "w = Constant<value = double[3,2] {1, -1, 2, 0.5, -0.7, 0.3}>()"
LOOP = "t = Constant<value = int64 {2}>() c = Constant<value = bool {1}>()"

CASES = {
    "time before the samples": Case(f"g (double[T,B,3] x) => (double[B,2] y) {{ {TIME}", {"x": 1}, "dynamic", (4, 3)),
    "time before the samples, named by nobody": Case(
        f"g (double[a,b,3] x) => (double[c,2] y) {{ {TIME}", {"x": 1}, "dynamic", (4, 3)
    ),
    "names apart": Case(
        f"g (double[unk1,3] a, double[unk2,3] b) => (double[unk3,2] y) {{ {PAIR}", {"a": 0, "b": 0}, "dynamic"
    ),
    "a batch of two in the file": Case(
        f"g (double[2,3,1] x) => (double[2,2] y) {{ s = Constant<value = int64[2] {{2, 3}}>() {WEIGHT} "
        "r = Reshape(x, s) h = MatMul(r, w) y = Tanh(h) }",
        {"x": 0}, "freed", (3, 1),
    ),
    "a batch of three folded into rows and back": Case(
        f"g (double[3,2,3] x) => (double[3,4] y) {{ s = Constant<value = int64[2] {{6, 3}}>() {WEIGHT} "
        "r = Reshape(x, s) h = MatMul(r, w) b = Constant<value = int64[2] {3, 4}>() y = Reshape(h, b) }",
        {"x": 0}, "freed", (2, 3),
    ),
    "a branch on the sum of all": Case(
        f"""g (double[N,3] x) => (double[N,2] y) {{ {WEIGHT} h = MatMul(x, w) s = ReduceSum<keepdims=0>(x)
        zero = Constant<value = double {{0}}>() c = Greater(s, zero)
        y = If(c) <then_branch = t () => (double[N,2] a) {{ a = Tanh(h) }},
                   else_branch = e () => (double[N,2] b) {{ b = Sin(h) }}> }}""",
        {"x": 0}, "single",
    ),
    "a branch on the sum of all, of six numbers each": Case(
        f"""g (double[N,2,3] x) => (double[N,2,2] y) {{ {WEIGHT} h = MatMul(x, w) s = ReduceSum<keepdims=0>(x)
        zero = Constant<value = double {{0.1}}>() c = Greater(s, zero)
        y = If(c) <then_branch = t () => (double[N,2,2] a) {{ a = Tanh(h) }},
                  else_branch = e () => (double[N,2,2] b) {{ b = Sin(h) }}> }}""",
        {"x": 0}, "single", (2, 3), index=(0, 1),
    ),
    "time before the samples, in two inputs": Case(
        """g (double[3,unk1,2] x, double[3,unk2] a) => (double[unk3,2] y) { k = Constant<value = int64[1] {2}>()
        u = Unsqueeze(a, k) p = Mul(x, u) q = Tanh(p) z = Constant<value = int64[1] {0}>()
        y = ReduceSum<keepdims = 0>(q, z) }""",
        {"x": 1, "a": 1}, "dynamic", (3, 2),
    ),
    "a floor below the largest of all": Case(
        """g (double[N,3] x) => (double[N,3] y) { m = ReduceMax<keepdims=0>(x) c = Constant<value = double {80}>()
        lo = Sub(m, c) y = Max(x, lo) }""",
        {"x": 0}, "single",
    ),
    "a ceiling above the smallest of all": Case(
        """g (double[N,3] x) => (double[N,3] y) { m = ReduceMin<keepdims=0>(x) c = Constant<value = double {5}>()
        hi = Add(m, c) y = Min(x, hi) }""",
        {"x": 0}, "single",
    ),
    "a norm of all that is clipped": Case(
        """g (double[N,3] x) => (double[N,3] y) { n = ReduceL2<keepdims=0>(x) c = Constant<value = double {500}>()
        m = Max(n, c) y = Div(x, m) }""",
        {"x": 0}, "single",
    ),
    "a switch that only zeros set": Case(
        """g (double[N,3] x) => (double[N,3] y) { a = Abs(x) k = Constant<value = int64[1] {1}>()
        s = ReduceSum<keepdims=1>(a, k) m = ReduceMin<keepdims=0>(s) z = Constant<value = double {0}>()
        e = Equal(m, z) f = CastLike(e, x) t = Tanh(x) y = Add(t, f) }""",
        {"x": 0}, "single",
    ),
    "a loop that reads the inputs": Case(
        f"""g (double[2,1,3] x, double[3,1,3] h0) => (double[1,3] y) {{ {LOOP} i0 = Constant<value = int64 {{0}}>()
        s0 = Gather<axis=0>(h0, i0) y = Loop(t, c, s0) <body = b (int64 i, bool c1, double[1,3] s)
          => (bool c2, double[1,3] s2) {{ c2 = Identity(c1) v = Gather<axis=0>(x, i) q = Mul(v, v) s2 = Add(q, s) }}>
        }}""",
        {"x": 1, "h0": 1}, "freed", (2, 3),
    ),
    "a loop that starts from a constant and reshapes": Case(
        f"""g (double[1,4] x) => (double[1,2] y) {{ {LOOP} s0 = Constant<value = double[1,2] {{0, 0}}>()
        y = Loop(t, c, s0) <body = b (int64 i, bool c1, double[1,2] s) => (bool c2, double[1,2] s2) {{
          c2 = Identity(c1) sh = Constant<value = int64[3] {{1, 2, 2}}>() r = Reshape(x, sh) q = Mul(r, r)
          one = Constant<value = int64[1] {{1}}>() p = ReduceSum<keepdims=0>(q, one) s2 = Add(p, s) }}> }}""",
        {"x": 0}, "freed", (4,),
    ),
    "a scan over time": Case(
        """g (double[5,1,3] x) => (double[1,3] y, double[5,1,3] ys) { s0 = Constant<value = double[1,3] {0, 0, 0}>()
        y, ys = Scan(s0, x) <num_scan_inputs = 1, body = b (double[1,3] s, double[1,3] v)
          => (double[1,3] s2, double[1,3] o) { q = Tanh(v) s2 = Add(s, q) o = Mul(s2, q) }> }""",
        {"x": 1}, "freed", (5, 3), target="y",
    ),
    "a branch that is chosen by a constant of the file": Case(
        f"""g (double[1,3] x, bool flag) => (double[1,2] y) {{ {WEIGHT}
        y = If(flag) <then_branch = t () => (double[1,2] a) {{ h = MatMul(x, w) a = Tanh(h) }},
                      else_branch = e () => (double[1,2] b) {{ k = MatMul(x, w) b = Sin(k) }}> }}""",
        {"x": 0}, "freed",
    ),
    "a loss of all beside the scores": Case(
        f"g (double[N,3] x) => (double[N,2] y, double loss) {{ {WEIGHT} h = MatMul(x, w) y = Tanh(h) "
        "loss = ReduceMean<keepdims=0>(y) }",
        {"x": 0}, "dynamic", target="y",
    ),
    "noise beside the scores": Case(
        f"g (double[N,3] x) => (double[N,2] y, double[N,2] noisy) {{ {WEIGHT} h = MatMul(x, w) y = Tanh(h) "
        "r = RandomNormalLike(y) noisy = Add(y, r) }",
        {"x": 0}, "dynamic", target="y",
    ),
    "the best of all samples beside the scores": Case(
        f"g (double[N,3] x) => (double[N,2] y, double[K] best, int64[K] i) {{ {WEIGHT} h = MatMul(x, w) y = Tanh(h) "
        "f = Constant<value = int64[1] {-1}>() v = Reshape(y, f) k = Constant<value = int64[1] {2}>() "
        "best, i = TopK<axis=0>(v, k) }",
        {"x": 0}, "dynamic", target="y",
    ),
    "the places of what is above zero beside the scores": Case(
        f"g (double[N,3] x) => (double[N,2] y, int64[2,K] i) {{ {WEIGHT} h = MatMul(x, w) y = Tanh(h) "
        "f = Cast<to = 1>(h) i = NonZero(f) }",
        {"x": 0}, "dynamic", target="y",
    ),
}  # fmt: skip


def drawn(case: Case, samples: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Samples of very different size: they depend on each other wherever they can."""
    rng = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for name, axis in case.axes.items():
        others = {"h0": (3, *case.others[1:]), "a": case.others[:1]}.get(name, case.others)
        rows = [rng.normal(size=others) * size for size in (1.0, 300.0, 0.01)[:samples]]
        found[name] = np.stack(rows, axis=axis)
    if "flag" in case.text:
        found["flag"] = np.array(True)
    return found


def truth(case: Case, inputs: Arrays, k: int) -> dict[str, NDArray[np.float64]]:
    """The gradient of the target of sample k, run alone, by central differences."""
    session = onnxruntime.InferenceSession(
        parsed(widened(case.text)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    alone = {n: np.take(a, [k], axis=case.axes[n]) if n in case.axes else a for n, a in inputs.items()}
    target = case.target or session.get_outputs()[0].name

    def at(moved: Arrays) -> float:
        found = session.run([target], {**alone, **moved})[0]
        place = case.index if isinstance(case.index, int) else case.index[-1]
        return float(found.reshape(-1)[place])

    result = {}
    for name in case.axes:
        step = 1e-6 * max(float(np.abs(alone[name]).max()), 1e-2)
        slopes = np.zeros(alone[name].shape)
        for place in np.ndindex(*slopes.shape):
            move = np.zeros(slopes.shape)
            move[place] = step
            slopes[place] = (at({name: alone[name] + move}) - at({name: alone[name] - move})) / (2 * step)
        result[name] = np.moveaxis(slopes, case.axes[name], 0)[0]
    return result


def widened(text: str) -> str:
    """A file made for two or three samples, as one made for any number: alone, each is run once."""
    for count in ("2", "3"):
        text = text.replace(f"value = int64[2] {{{count},", "value = int64[2] {-1,")
    return (
        text.replace("(double[2,3,1] x)", "(double[N,3,1] x)")
        .replace("(double[3,2,3] x)", "(double[N,2,3] x)")
        .replace("int64[2] {6, 3}", "int64[2] {-1, 3}")
    )


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_each_sample_has_the_gradient_that_it_has_alone(name: str, samples: int) -> None:
    case = CASES[name]
    inputs = drawn(case, samples)
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(case.text))
        answer = engine.attribute(
            AttributionRequest("net", inputs, "gradient", target=Target(case.target, index=case.index))
        )
    assert answer.batch == case.batch
    for k in range(samples):
        for source, wanted in truth(case, inputs, k).items():
            found = answer.layers[source].values[k].astype(np.float64).reshape(wanted.shape)
            scale = max(np.abs(wanted).max(), 1e-6)
            np.testing.assert_allclose(
                found, wanted, rtol=1e-4, atol=1e-4 * scale, err_msg=f"{source}, sample {k}"
            )


@pytest.mark.parametrize("method", ["integrated_gradients", "neuron_ig", "deeplift_rescale", "occlusion"])
@pytest.mark.parametrize("name", CASES)
def test_samples_together_are_what_they_are_alone(name: str, method: str) -> None:
    case = CASES[name]
    inputs = drawn(case, 3)
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(case.text))

        def asked(given: Arrays) -> Any:
            return engine.attribute(
                AttributionRequest(
                    "net", given, method, target=Target(case.target, index=case.index), steps=8
                )
            )

        single = [
            {n: np.take(a, [k], axis=case.axes[n]) if n in case.axes else a for n, a in inputs.items()}
            for k in range(3)
        ]
        if method == "deeplift_rescale" and "If(c)" in case.text:  # x and x' take different branches
            for given in (inputs, single[0]):
                with pytest.raises(AttributionError, match="go different ways"):
                    asked(given)
            return
        together = asked(inputs)
        for k in range(3):
            alone = asked(single[k])
            assert together.target.value[k] == pytest.approx(alone.target.value[0], rel=1e-9)
            for source, layer in alone.layers.items():
                found, wanted = together.layers[source].values[k], layer.values[0]
                np.testing.assert_allclose(
                    found, wanted, rtol=1e-6, atol=1e-9 * max(np.abs(wanted).max(), 1e-6)
                )


def test_a_file_with_weights_that_are_quantised_by_the_largest_input_is_run_row_by_row() -> None:
    text = """g (float[N,3] x) => (float[N,2] y) { q, s, z = DynamicQuantizeLinear(x)
        w = Constant<value = int8[3,2] {10, -20, 30, 5, -7, 3}>() zw = Constant<value = int8 {0}>()
        i = MatMulInteger(q, w, z, zw) f = Cast<to = 1>(i) y = Mul(f, s) }"""
    x = np.array([[1, 2, 3], [300, -200, 100]], np.float32)
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(text))
        both = engine.attribute(AttributionRequest("net", {"x": x}, "gradient", target=Target(index=0)))
        alone = [
            engine.attribute(AttributionRequest("net", {"x": row[None]}, "gradient", target=Target(index=0)))
            for row in x
        ]
    for k, one in enumerate(alone):
        assert both.target.value[k] == one.target.value[0]
        np.testing.assert_array_equal(both.layers["x"].values[k], one.layers["x"].values[0])
    assert any("run one by one" in words for words in both.warnings)


def test_a_fixed_axis_of_one_takes_several_samples_where_the_rows_cannot_share_a_run() -> None:
    text = """g (double[1,4] x) => (double[1,4] y) { s = Constant<value = int64[2] {2, 2}>() r = Reshape(x, s)
        n = Softmax<axis=0>(r) t = Transpose(n) b = Constant<value = int64[2] {1, 4}>() y = Reshape(t, b) }"""
    x = np.random.default_rng(0).normal(size=(3, 4))
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(text))
        both = engine.attribute(AttributionRequest("net", {"x": x}, "gradient", target=Target(index=2)))
        for k in range(3):
            one = engine.attribute(
                AttributionRequest("net", {"x": x[k : k + 1]}, "gradient", target=Target(index=2))
            )
            np.testing.assert_array_equal(both.layers["x"].values[k], one.layers["x"].values[0])
        stacked = engine.attribute(
            AttributionRequest("net", {"x": x[:, None]}, "gradient", target=Target(index=2))
        )
    np.testing.assert_array_equal(both.layers["x"].values, stacked.layers["x"].values)


def test_one_entry_beside_several_samples_is_shared_by_all() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3, 3))
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(CASES["names apart"].text))
        target = Target(index=1)
        one = engine.attribute(AttributionRequest("net", {"a": a, "b": b[:1]}, "gradient", target=target))
        many = {"a": a, "b": np.repeat(b[:1], 3, axis=0)}
        each = engine.attribute(AttributionRequest("net", many, "gradient", target=target))
    for name in ("a", "b"):
        np.testing.assert_array_equal(one.layers[name].values, each.layers[name].values)


def test_pictures_and_texts_that_meet_in_a_table_are_told_apart_in_words() -> None:
    """Either axis may hold the samples; the answer says which does, and how the other one is stated."""
    text = """g (double[pictures,3] x, double[texts,3] w) => (double[pictures,texts] y) { t = Transpose(w)
        y = MatMul(x, t) }"""
    x, w = np.random.default_rng(0).normal(size=(2, 4, 3))
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(text))
        found = engine.attribute(
            AttributionRequest("net", {"x": x, "w": w[:2]}, "gradient", target=Target(index=1))
        )
        np.testing.assert_allclose(
            found.layers["x"].values.astype(np.float64), np.tile(w[1], (4, 1)), rtol=1e-9
        )
        assert any(
            "'w' is shared by all samples" in words and "--batch-axis" in words for words in found.warnings
        )
        engine.add("turned", parsed(text), batch_axes={"x": None, "w": 0})
        found = engine.attribute(
            AttributionRequest(
                "turned", {"x": x, "w": w[:2]}, "gradient", source=("w",), target=Target(index=3)
            )
        )
        np.testing.assert_allclose(
            found.layers["w"].values.astype(np.float64), np.tile(x[3], (2, 1)), rtol=1e-9
        )


def test_a_sequence_taken_as_one_sample_is_told_with_what_to_state() -> None:
    text = "g (double[T,3] x) => (double[T,3] y) { y = Softmax<axis=0>(x) }"
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(text))
        with pytest.raises(InvalidArgument, match=r"it is one sample, .*--batch-axis NAME=AXIS") as caught:
            engine.attribute(
                AttributionRequest("net", {"x": np.ones((2, 3))}, "gradient", target=Target(index=1))
            )
        assert caught.value.reason == "TARGET_INVALID"


MEETING = {
    "the largest of integers": (
        """g (double[N,3] x, int64[N] i) => (double[N] z) { m = ReduceMax<keepdims = 0>(i)
        k = Constant<value = int64[1] {1}>() t = Constant<value = double[4] {1, 2, 3, 4}>() w = Gather(t, m)
        q = Mul(x, w) z = ReduceSum<keepdims = 0>(q, k) }""",
        "i", np.array([0, 3]), ([1, 1, 1], [4, 4, 4]),
    ),
    "whether any is true": (
        """g (double[N,3] x, bool[N] b) => (double[N] z) { c = Cast<to = 11>(b) m = ReduceMax<keepdims = 0>(c)
        one = Constant<value = double {1}>() w = Add(m, one) q = Mul(x, w) k = Constant<value = int64[1] {1}>()
        z = ReduceSum<keepdims = 0>(q, k) }""",
        "b", np.array([False, True]), ([1, 1, 1], [2, 2, 2]),
    ),
    "the longest of lengths": (
        """g (double[N,3] x, int64[N] n) => (double[N] z) { m = ReduceMax<keepdims = 1>(n)
        o = Constant<value = int64[1] {0}>() k = Constant<value = int64[1] {1}>() s = Slice(x, o, m, k)
        z = ReduceSum<keepdims = 0>(s, k) }""",
        "n", np.array([2, 3]), ([1, 1, 0], [1, 1, 1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEETING)
def test_samples_that_meet_in_integers_or_truth_values_are_kept_apart(name: str) -> None:
    text, other, given, wanted = MEETING[name]
    with Engine(provider="cpu") as engine:
        engine.add("net", parsed(text))
        found = engine.attribute(
            AttributionRequest("net", {"x": np.ones((2, 3)), other: given}, "gradient", source=("x",))
        )
    np.testing.assert_allclose(found.layers["x"].values.astype(np.float64), wanted, rtol=1e-12)

"""DeepLIFT's RevealCancel: numbers by hand, and what must hold for every network (arXiv 1704.02685, section 3.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, Target
from tests.methods.toys import explain, model, values

REVEAL: str = "deeplift_reveal_cancel"
RESCALE: str = "deeplift_rescale"
GENOMICS: str = "deeplift_genomics_default"
BOTH: tuple[str, str] = (REVEAL, RESCALE)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def lift(
    engine: Engine,
    net: onnx.ModelProto,
    x: Any,
    reference: Any = 0.0,
    method: str = REVEAL,
    **options: Any,
) -> Attribution:
    """DeepLIFT of a model with one input `x`."""
    return explain(engine, net, {"x": np.asarray(x)}, method, baselines={"x": reference}, **options)


# --- numbers by hand (methods.md 1.6 and 2.10)

TOY_C = model(
    """(double[N,1] x) => (double[N,1] y) {
        z = Gemm(x, W, b) h = Relu(z)
        s = Gemm(h, v, c) y = Relu(s)
    }""",
    W=[[1.0, 2.0]], b=[0.0, -1.0], v=[[1.0], [-0.5]], c=[-0.2],
)  # fmt: skip
MINIMUM = model(
    """(double[N,2] x) => (double[N,1] y) {
        d = MatMul(x, W) r = Relu(d)
        first = MatMul(x, e) y = Sub(first, r)
    }""",
    W=[[1.0], [-1.0]], e=[[1.0], [0.0]],
)  # fmt: skip


def test_toy_c_has_the_three_numbers(engine: Engine) -> None:
    found = {m: values(lift(engine, TOY_C, [[1.0]], method=m, layers="h"), "h") for m in BOTH}
    np.testing.assert_allclose(found[REVEAL], [[0.55, -0.25]], atol=1e-12)
    np.testing.assert_allclose(found[RESCALE], [[0.6, -0.3]], atol=1e-12)


@pytest.mark.parametrize(("x", "share"), [((10.0, 6.0), 3.0), ((6.0, 10.0), 3.0), ((4.0, 3.0), 1.5)])
def test_a_minimum_is_split_evenly(engine: Engine, x: tuple[float, float], share: float) -> None:
    np.testing.assert_allclose(values(lift(engine, MINIMUM, [x])), [[share, share]], atol=1e-12)


def test_an_and_gate_is_shared_where_rescale_gives_it_to_one(engine: Engine) -> None:
    rescaled = values(lift(engine, MINIMUM, [(10.0, 6.0)], method=RESCALE))
    np.testing.assert_allclose(rescaled, [[0, 6]], atol=1e-12)


def test_a_unit_whose_parts_cancel_is_split_evenly(engine: Engine) -> None:
    """Its change is 0: the authors' code divides noise by noise, here half of its weight belongs to either part."""
    net = model(
        """(double[N,2] x) => (double[N,1] y) {
            z = MatMul(x, W) h = Relu(z)
            y = MatMul(h, v)
        }""",
        W=[[1.0, 1.0], [-1.0, 0.0]], v=[[1.0], [1.0]],
    )  # fmt: skip
    x = np.array([[2.0, 2.0]])  # z = (0, 2); the first unit gets +2 and -2
    multipliers = values(lift(engine, net, x, layers="h", multiply=False), "h")
    np.testing.assert_allclose(multipliers, [[1.0, 1.0]], atol=1e-12)
    answer = lift(engine, net, x)
    # +2 alone makes it 2, -2 alone makes it 0: the Shapley values of its parts are +1 and -1
    np.testing.assert_allclose(values(answer), [[3.0, -1.0]], atol=1e-12)
    np.testing.assert_allclose(answer.layers["x"].residual, 0, atol=1e-12)


# --- what must hold

rng = np.random.default_rng(7)
NETS = {
    "dense": model(
        """(double[N,6] x) => (double[N,3] y) {
            z1 = Gemm(x, W1, b1) h1 = Relu(z1)
            z2 = Gemm(h1, W2, b2) h2 = Tanh(z2)
            z3 = Gemm(h2, W3, b3) h3 = Sigmoid(z3) y = MatMul(h3, W4)
        }""",
        **{f"W{k}": rng.normal(size=s) for k, s in enumerate([(6, 7), (7, 5), (5, 4), (4, 3)], 1)},
        **{f"b{k}": rng.normal(size=s) for k, s in enumerate([7, 5, 4], 1)},
    ),
    "residual": model(
        """(double[N,6] x) => (double[N,6] y) {
            z1 = MatMul(x, W1) h1 = Relu(z1) s1 = Add(x, h1)
            z2 = MatMul(s1, W2) h2 = Tanh(z2) n2 = Neg(h2) s2 = Sub(s1, n2)
            t = Mul(s2, scale) u = Div(t, other) h3 = Sigmoid(u) y = Add(h3, s1)
        }""",
        W1=rng.normal(size=(6, 6)), W2=rng.normal(size=(6, 6)), scale=rng.normal(size=6), other=rng.normal(size=6),
    ),
    "attention": model(
        """(double[N,3,4] x) => (double[N,3,4] y) {
            q = MatMul(x, Q) k = MatMul(x, K) kt = Transpose<perm = [0, 2, 1]>(k)
            s = MatMul(q, kt) p = Softmax(s) v = MatMul(x, V) o = MatMul(p, v)
            r = Add(o, x) n = LayerNormalization(r, g, b) f = MatMul(n, F) h = Tanh(f) y = Add(h, n)
        }""",
        **{n: rng.normal(size=(4, 4)) for n in "QKVF"}, g=rng.normal(size=4), b=rng.normal(size=4),
    ),
    "images": model(
        """(float[N,2,6,6] x) => (float[N,2] y) {
            z1 = Conv<pads = [1, 1, 1, 1]>(x, K1, c1) n1 = BatchNormalization(z1, g, b, m, v) h1 = Relu(n1)
            p1 = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(h1)
            a1 = AveragePool<kernel_shape = [2, 2]>(p1) h2 = Tanh(a1)
            f = Flatten(h2) y = MatMul(f, W)
        }""",
        **{
            n: rng.normal(size=s).astype(np.float32)
            for n, s in {"K1": (3, 2, 3, 3), "c1": (3,), "b": (3,), "m": (3,), "W": (3, 2)}.items()
        },
        g=np.array([0.3, -0.4, 0.2], np.float32),
        v=np.ones(3, np.float32),
    ),
}  # fmt: skip
SIZES = {"dense": (4, 6), "residual": (4, 6), "attention": (4, 3, 4), "images": (4, 2, 6, 6)}


def points(name: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    kind = np.float32 if name == "images" else np.float64
    return rng.normal(size=SIZES[name]).astype(kind), rng.normal(size=SIZES[name]).astype(kind)


def first(name: str) -> Target:
    return Target(index=(1, 2) if name == "attention" else 1)


@pytest.mark.parametrize("method", [REVEAL, GENOMICS])
@pytest.mark.parametrize("name", NETS)
def test_every_cut_layer_sums_to_the_change(engine: Engine, name: str, method: str) -> None:
    x, y = points(name)
    net = NETS[name]
    layers = tuple(o for node in net.graph.node for o in node.output if node.op_type != "Transpose")
    answer = lift(engine, net, x, y, method, target=first(name), layers=("x", *layers))
    cuts = [layer for layer in answer.layers.values() if layer.cut]
    assert len(cuts) >= 3
    for layer in cuts:
        size = np.abs(layer.values.astype(np.float64)).reshape(len(x), -1).sum(axis=1)
        assert (np.abs(layer.residual) <= (1e-5 if name == "images" else 1e-11) * size).all(), layer.name


@pytest.mark.parametrize("name", NETS)
def test_swapping_input_and_reference_negates(engine: Engine, name: str) -> None:
    x, y = points(name)
    forth = values(lift(engine, NETS[name], x, y, target=first(name)))
    back = values(lift(engine, NETS[name], y, x, target=first(name)))
    np.testing.assert_allclose(forth, -back, atol=2e-5 if name == "images" else 1e-11)


@pytest.mark.parametrize("name", NETS)
def test_the_reference_itself_contributes_nothing(engine: Engine, name: str) -> None:
    x, _ = points(name)
    answer = lift(engine, NETS[name], x, x, target=first(name))
    np.testing.assert_array_equal(values(answer), np.zeros_like(x))


def test_where_no_part_is_negative_it_is_rescale(engine: Engine) -> None:
    net = model(
        """(double[N,3] x) => (double[N,1] y) {
            z = Gemm(x, W, b) h = Relu(z) s = Gemm(h, v, c) y = Relu(s)
        }""",
        W=np.abs(rng.normal(size=(3, 4))), b=-np.abs(rng.normal(size=4)), v=np.abs(rng.normal(size=(4, 1))), c=[-1.0],
    )  # fmt: skip
    x = np.abs(np.random.default_rng(0).normal(size=(5, 3))) * 3
    np.testing.assert_allclose(
        values(lift(engine, net, x)), values(lift(engine, net, x, method=RESCALE)), rtol=1e-10
    )


def test_under_a_linear_head_it_is_rescale_and_weight_times_difference(engine: Engine) -> None:
    x, y = points("dense")
    found = [
        values(lift(engine, NETS["dense"], x, y, m, layers="h3", target=Target(index=1)), "h3") for m in BOTH
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


def test_an_affine_model_has_weights_times_differences(engine: Engine) -> None:
    w = rng.normal(size=(3, 2))
    net = model("(double[N,3] x) => (double[N,2] y) { y = Gemm(x, W, b) }", W=w, b=rng.normal(size=2))
    x = rng.normal(size=(4, 3))
    answer = lift(engine, net, x, target=Target(index=1))
    np.testing.assert_allclose(values(answer), x * w[:, 1], rtol=1e-12)


def test_genomics_default_reveals_after_dense_and_rescales_after_convolution(engine: Engine) -> None:
    x, y = points("images")
    found = {
        m: values(lift(engine, NETS["images"], x, y, m, target=first("images"))) for m in (*BOTH, GENOMICS)
    }
    np.testing.assert_allclose(
        found[GENOMICS], found[RESCALE], atol=1e-5
    )  # nothing dense feeds a nonlinearity
    assert np.abs(found[REVEAL] - found[RESCALE]).max() > 1e-3
    x, y = points("dense")
    dense = [values(lift(engine, NETS["dense"], x, y, m, target=Target(index=1))) for m in (REVEAL, GENOMICS)]
    np.testing.assert_array_equal(dense[0], dense[1])


def test_multipliers_times_differences_are_contributions(engine: Engine) -> None:
    for name in NETS:
        x, y = points(name)
        m = values(lift(engine, NETS[name], x, y, target=first(name), multiply=False))
        c = values(lift(engine, NETS[name], x, y, target=first(name)))
        np.testing.assert_allclose(m * (x - y), c, rtol=1e-4 if name == "images" else 1e-9, atol=1e-6)


# --- integers, truth values, and what has no secant

STEPS = {
    "integers": "i = Cast<to=7>(t)",
    "truth values": "i = Cast<to=9>(t)",
    "sum": "j = Cast<to=7>(t) i = Add(j, seven)",
    "product": "j = Cast<to=7>(t) i = Mul(j, seven)",
    "square": "j = Cast<to=7>(t) i = Mul(j, j)",
    "quotient": "j = Cast<to=7>(t) k = Mul(j, seven) i = Div(k, two)",
    "quotient by what moves": "j = Cast<to=7>(t) k = Mul(j, j) m = Add(k, two) n = Mul(j, seven) i = Div(n, m)",
    "remainder": "j = Cast<to=7>(t) i = Mod(j, two)",
    "larger": "j = Cast<to=7>(t) i = Max(j, two)",
    "32 bits": "j = Cast<to=6>(t) i = Relu(j)",
    "sum of 32 bits": "j = Cast<to=6>(t) k = Cast<to=6>(seven) i = Add(j, k)",
    "sum along an axis": "j = Cast<to=7>(t) i = ReduceSum(j, one)",
    "largest along an axis": "j = Cast<to=7>(t) i = ReduceMax(j, one)",
    "running sum": "j = Cast<to=7>(t) i = CumSum(j, one)",
}


@pytest.mark.parametrize("method", [RESCALE, REVEAL, GENOMICS])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_the_change_of_integers_and_truth_values_is_shared_out(
    engine: Engine, steps: str, method: str
) -> None:
    net = model(
        f"(double[N,4] x) => (double[N,4] y) {{ t = MatMul(x, W) {steps} f = Cast<to=11>(i) y = Add(f, x) }}",
        W=2 * np.random.default_rng(3).normal(size=(4, 4)),
        seven=np.array([7]), two=np.array([2]), one=np.array([1]),
    )  # fmt: skip
    ends = np.random.default_rng(8).normal(size=(2, 6, 4))
    for k in range(4):
        answer = lift(engine, net, ends[0], ends[1], method, target=Target(index=k))
        size = np.abs(values(answer)).reshape(6, -1).sum(axis=1)
        np.testing.assert_array_less(np.abs(answer.layers["x"].residual), 1e-9 * size + 1e-9)
        assert answer.warnings == ()


@pytest.mark.parametrize("method", [RESCALE, REVEAL])
def test_a_network_of_two_float_types_sums(engine: Engine, method: str) -> None:
    net = model(
        """(float[N,4] x) => (double[N,4] y) {
            a = Sin(x) b = Cast<to=11>(a) c = Tanh(b) i = Cast<to=7>(b) h = Cast<to=1>(i) k = Cast<to=11>(h)
            e = Greater(c, low) f = Cast<to=1>(e) m = Mul(f, a) n = Cast<to=11>(m) y = Sum(c, k, n)
        }""",
        low=np.array(0.1),
    )
    ends = 3 * np.random.default_rng(8).normal(size=(2, 6, 4)).astype(np.float32)
    answer = lift(engine, net, ends[0], ends[1], method, target=Target(index=1))
    np.testing.assert_allclose(answer.layers["x"].residual, 0, atol=1e-5)
    assert answer.layers["x"].sum.any()


UNFOLLOWED = {
    "Hardmax": "h = Hardmax(x) y = Mul(h, x)",
    "ArgMax": "i = ArgMax<axis=1>(x) f = Cast<to=1>(i) y = Add(f, x)",
    "TopK": "v, i = TopK(x, one) f = Cast<to=1>(i) y = Add(f, x)",
    "BitShift": 'a = Abs(x) i = Cast<to=2>(a) b = Cast<to=2>(one) s = BitShift<direction="LEFT">(i, b) '
    "f = Cast<to=1>(s) y = Add(f, x)",
}


@pytest.mark.parametrize("method", [RESCALE, REVEAL])
@pytest.mark.parametrize("operator", UNFOLLOWED)
def test_what_has_no_secant_is_refused_where_its_output_changes_and_only_there(
    engine: Engine, operator: str, method: str
) -> None:
    net = model(
        f"(float[N,3] x) => (float[N,3] y) {{ {UNFOLLOWED[operator]} }}", one=np.array([1], dtype=np.int64)
    )
    x, target = np.array([[1.25, 2.5, 3.25]]), Target(index=2)
    kept = lift(engine, net, x, np.array([[1.0, 2.0, 3.0]]), method, target=target)
    np.testing.assert_allclose(values(kept), [[0, 0, 0.25]], atol=1e-12)
    with pytest.raises(NotDifferentiable, match=f"no rule for {operator} .*, whose output changes"):
        lift(engine, net, x, np.array([[4.0, 2.0, 1.0]]), method, target=target)

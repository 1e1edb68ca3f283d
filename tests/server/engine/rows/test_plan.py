"""Plans of quadratures: what their weights sum to, and that batches of rows lose no term."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import IntegratedGradients, NeuronIG, Quadrature
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.server.engine.rows.plan import (
    Batch,
    Plan,
    batches,
    captum_alphas,
    conductance_plan,
    count_rows,
    gauss_legendre,
    mean_plan,
)
from onnx_attribution.values import AttributionRequest, Target
from tests.method_names import QUADRATURES

COUNTS = (1, 2, 3, 4, 5, 8, 13, 64)
MEANS = [(name, n) for name in QUADRATURES for n in COUNTS if (name, n) != ("riemann_trapezoid", 1)]
PLANS = [
    *((mean_plan, name, n) for name, n in MEANS),
    *((conductance_plan, name, n) for name in QUADRATURES for n in COUNTS),
]


@pytest.mark.parametrize(("name", "n"), MEANS)
def test_weights_of_a_mean_sum_to_1_but_captums_trapezoid(name: Quadrature, n: int) -> None:
    plan = mean_plan(name, n)
    expected = (n - 1) / n if name == "riemann_trapezoid" else 1.0
    for terms in (plan.fine, plan.coarse):
        if terms:
            assert sum(t.weight for t in terms) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "degree"),
    [("trapezoid", 1), ("riemann_middle", 1), ("left", 0), ("right", 0), ("gausslegendre", 9)],
)
def test_a_mean_of_5_steps_is_exact_up_to_the_degree_of_its_rule(name: Quadrature, degree: int) -> None:
    plan = mean_plan(name, 5)
    for power in range(degree + 2):
        found = sum(t.weight * plan.alphas[t.gradient] ** power for t in plan.fine)
        assert (abs(found - 1 / (power + 1)) < 1e-12) == (power <= degree)


@pytest.mark.parametrize(("make", "name", "n"), PLANS)
def test_nodes_lie_on_the_path_and_every_term_speaks_of_nodes(make: Any, name: Quadrature, n: int) -> None:
    plan = make(name, n)
    assert ((plan.alphas >= 0) & (plan.alphas <= 1)).all()
    used = {k for t in (*plan.fine, *plan.coarse) for k in (t.gradient, t.left, t.right)}
    assert used == set(range(len(plan.alphas)))


@pytest.mark.parametrize("name", ["trapezoid", "left", "right"])
def test_a_grid_has_both_ends_and_its_coarse_terms_need_no_further_rows(name: Quadrature) -> None:
    plan = conductance_plan(name, 8)
    np.testing.assert_array_equal(plan.alphas, np.arange(9) / 8)
    assert {t.left for t in plan.coarse} | {t.right for t in plan.coarse} == {0, 2, 4, 6, 8}


@pytest.mark.parametrize(
    "name", ["riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre"]
)
def test_under_captums_names_neuron_ig_takes_left_gradients_between_one_node_more(name: Quadrature) -> None:
    plan = conductance_plan(name, 10)
    np.testing.assert_array_equal(plan.alphas, captum_alphas(name, 11))
    assert [(t.gradient, t.left, t.right, t.weight) for t in plan.fine] == [
        (k, k, k + 1, 1.0) for k in range(10)
    ]


def test_one_step_has_no_coarse_grid() -> None:
    assert all(make(name, 1).coarse == () for make, name, n in PLANS if n == 1)


def test_captums_trapezoid_of_one_step_is_refused_as_captum_does() -> None:
    with pytest.raises(InvalidArgument, match="riemann_trapezoid needs at least 2 steps"):
        IntegratedGradients(quadrature="riemann_trapezoid", steps=1)


@pytest.mark.parametrize("steps", [0, -1, 16385])
def test_a_number_of_steps_out_of_range_is_refused(steps: int) -> None:
    with pytest.raises(InvalidArgument, match=f"steps is {steps}; it must lie between 1 and 16384"):
        NeuronIG(steps=steps)


def test_an_unknown_quadrature_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InvalidArgument, match=r"quadrature is 'simpson'; it may be: auto, trapezoid, .*gausslegendre"
    ):
        NeuronIG(quadrature="simpson")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 51, 300])
def test_gauss_legendre_is_numpys(count: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    np.testing.assert_allclose(gauss_legendre(count)[0], (1 + nodes) / 2, rtol=0, atol=1e-14)
    np.testing.assert_allclose(gauss_legendre(count)[1], weights / 2, rtol=1e-10)


def test_gauss_legendre_of_many_nodes_integrates_and_takes_no_time() -> None:
    nodes, weights = gauss_legendre(5000)
    assert (np.diff(nodes) > 0).all()
    np.testing.assert_allclose((weights * np.exp(nodes)).sum(), np.e - 1, rtol=1e-11)
    np.testing.assert_allclose((weights * np.cos(3000 * nodes)).sum(), np.sin(3000) / 3000, atol=1e-11)


# --- Batches


Side = tuple[int, int, int, int, int, float]
"""Sample, level, gradient node, left node, right node, weight."""


def sides(side: Side) -> list[Side]:
    """A term that lies on both sides of its gradient as two, which sum to it."""
    sample, level, gradient, left, right, weight = side
    if not left < gradient < right:
        return [side]
    return [(sample, level, gradient, *pair, weight) for pair in ((left, gradient), (gradient, right))]


def terms_of(batch: Batch) -> list[Side]:
    """The terms of a batch, by their sides."""
    found: list[Side] = []
    for g, left, right, weight, slot in zip(
        batch.gradient_row, batch.left_row, batch.right_row, batch.weight, batch.slot, strict=True
    ):
        samples = {int(batch.row_sample[k]) for k in (g, left, right)}
        assert samples == {int(slot) // 2}
        gradient, low, high = (int(batch.nodes[k]) for k in (g, left, right))
        found += sides((int(slot) // 2, int(slot) % 2, gradient, low, high, float(weight)))
    return found


def wanted(plan: Plan, samples: int) -> Counter[Side]:
    return Counter(
        side
        for s in range(samples)
        for level, terms in enumerate((plan.fine, plan.coarse))
        for t in terms
        for side in sides((s, level, t.gradient, t.left, t.right, t.weight))
    )


@pytest.mark.parametrize("limit", [3, 4, 7, 50, 1000])
@pytest.mark.parametrize(("make", "name", "n"), [p for p in PLANS if p[2] in (1, 2, 5, 13)])
def test_batches_cover_every_term_once_and_hold_no_more_rows_than_may_be(
    make: Any, name: Quadrature, n: int, limit: int
) -> None:
    plan = make(name, n)
    for samples in (1, 3):
        found: Counter[Any] = Counter()
        ends: set[tuple[int, float]] = set()
        for batch in batches(plan, samples, limit):
            assert len(batch.row_sample) <= limit
            keys = list(zip(batch.row_sample, batch.nodes, strict=True))
            assert len(set(keys)) == len(keys)
            np.testing.assert_array_equal(batch.row_alpha, plan.points[batch.nodes])
            ends |= {
                (int(s), float(a))
                for s, a in zip(batch.row_sample, batch.row_alpha, strict=True)
                if a in (0, 1)
            }
            found.update(terms_of(batch))
        assert found == wanted(plan, samples)
        assert ends == {(sample, end) for sample in range(samples) for end in (0, 1)}


@pytest.mark.parametrize(("limit", "rows"), [(3, 24), (4, 24), (5, 20), (9, 18), (17, 17)])
def test_runs_of_a_trapezoid_share_one_row(limit: int, rows: int) -> None:
    """16 segments: pairs of them go with 3 rows, of which the last is the first of the next run."""
    assert count_rows(conductance_plan("trapezoid", 16), 1, limit) == rows


def test_where_all_rows_fit_terms_are_whole() -> None:
    plan = conductance_plan("trapezoid", 16)
    (batch,) = batches(plan, 1, 17)
    assert len(batch.weight) == len(plan.fine) + len(plan.coarse)


def test_fewer_rows_than_a_term_needs_are_raised_to_three() -> None:
    assert max(len(b.row_sample) for b in batches(conductance_plan("trapezoid", 8), 2, 1)) == 3


def test_where_all_fits_every_node_is_evaluated_once() -> None:
    assert count_rows(conductance_plan("trapezoid", 64), 4, 1000) == 4 * 65
    assert count_rows(mean_plan("left", 64), 4, 1000) == 4 * 65  # the last one gives F(x)


@pytest.mark.parametrize("limit", [3, 5, 16])
def test_rows_at_the_borders_of_batches_are_counted_as_often_as_they_run(limit: int) -> None:
    plan = conductance_plan("trapezoid", 21)
    assert count_rows(plan, 3, limit) == sum(len(b.row_sample) for b in batches(plan, 3, limit))
    assert count_rows(plan, 3, limit) > 3 * 22


# --- Through the engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        rng = np.random.default_rng(0)
        proto = onnx.parser.parse_model(
            """<ir_version: 9, opset_import: ["" : 21]> g (float[N,6] x) => (float[N,3] y) {
                z = MatMul(x, W)
                h = Tanh(z)
                y = MatMul(h, V)
            }"""
        )
        for name, shape in (("W", (6, 8)), ("V", (8, 3))):
            array: NDArray[np.float32] = rng.normal(size=shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        made.add("net", proto)
        yield made


@pytest.mark.parametrize("limit", [3, 5, 32, 100])
@pytest.mark.parametrize("name", QUADRATURES)
@pytest.mark.parametrize("method", ["neuron_ig", "integrated_gradients"])
def test_the_number_of_rows_in_a_run_does_not_move_the_sums(
    engine: Engine,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    name: Quadrature,
    limit: int,
) -> None:
    x = rng.normal(size=(5, 6)).astype(np.float32)
    request = AttributionRequest(
        "net", {"x": x}, method, target=Target(index=1), baselines={"x": 0.25}, steps=19, quadrature=name
    )
    whole = engine.attribute(request).layers["x"]
    monkeypatch.setattr(evaluate, "MAX_ROWS", limit)
    parts = engine.attribute(request).layers["x"]
    scale = float(np.abs(whole.values).max())
    assert np.abs(np.subtract(parts.values, whole.values)).max() <= 1e-6 * scale
    np.testing.assert_allclose(parts.error_estimate, whole.error_estimate, rtol=1e-3, atol=1e-5 * scale)

"""fb_trace: what the answer says of supports, their boxes, the strongest units, and the flow between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnx_attribution.client.render.scene import HeatPanel, Shown, scene_of
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import events
from onnx_attribution.server.engine import Engine
from onnx_attribution.supports import Box, Unit, layer_support
from onnx_attribution.values import Attribution, AttributionRequest, Target
from tests.methods.test_fb_trace import B1, B2, RNG, TOY, W1, W2, W3, X, ask, convolved, dense, shares
from tests.methods.toys import Floats, model


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("toy", TOY)
        made.add("dense", dense())
        made.add("convolved", convolved())
        yield made


def edges(answer: Attribution, k: int, layer: str, to: str, size: tuple[int, int]) -> Floats:
    """The shares of the edges between two layers as a matrix."""
    found = np.zeros(size)
    for one in answer.supports[k].edges:
        if (one.layer, one.to_layer) == (layer, to):
            found[one.unit[0], one.to_unit[0]] = one.share
    return found


def test_the_toy_names_its_units_and_edges(engine: Engine) -> None:
    answer = ask(engine, "toy", [[1.0, 2]], ["x", "h"], tau=0.1, top=2)
    (found,) = answer.supports
    assert [unit.unit for unit in found.layers["x"].top] == [(1,), (0,)]
    np.testing.assert_allclose([unit.share for unit in found.layers["x"].top], [0.8, 0.2], rtol=1e-6)
    assert [one[:4] for one in found.edges] == [("x", (1,), "h", (0,)), ("x", (0,), "h", (0,))]
    np.testing.assert_allclose([one.share for one in found.edges], [0.8, 0.2], rtol=1e-6)
    assert (found.layers["h"].kept, found.layers["h"].units) == (1, 2)
    np.testing.assert_allclose(found.layers["h"].mass, 1)
    assert ask(engine, "toy", [[1.0, 2]], ["x", "h"], tau=0.1).supports[0].edges == ()


def test_edges_of_a_positive_mass_are_the_terms_of_its_walk(engine: Engine) -> None:
    answer = ask(engine, "dense", X, ["x", "h1", "h2"], index=1, tau=0.0, top=40)
    h1 = np.maximum(X @ W1 + B1, 0)
    for k in range(len(X)):
        r = shares(answer, "h1")[k]
        terms = np.maximum(X[k][:, None] * W1, 0)
        wanted = terms / np.maximum(terms.sum(axis=0), 1e-300) * r
        np.testing.assert_allclose(edges(answer, k, "x", "h1", (30, 40)), wanted, rtol=1e-6, atol=1e-12)
        through = edges(answer, k, "h1", "h2", (40, 40))
        np.testing.assert_allclose(through.sum(axis=1), r, rtol=1e-6, atol=1e-12)
        assert not through[h1[k] == 0].any()


def test_edges_of_contributions_are_the_ways_through_a_unit(engine: Engine) -> None:
    answer = ask(engine, "dense", X, ["x", "h1", "h2"], index=1, form="signed", tau=0.0, top=40)
    h1 = np.maximum(X @ W1 + B1, 0)
    h2 = np.maximum(h1 @ W2 + B2, 0)
    for k in range(len(X)):
        back = (h2[k] > 0) * W3[:, 1]
        at_h1 = (h1[k] > 0) * (W2 @ back)
        total = np.abs(X[k] * (W1 @ at_h1)).sum()
        wanted = X[k][:, None] * W1 * at_h1 / total
        np.testing.assert_allclose(edges(answer, k, "x", "h1", (30, 40)), wanted, rtol=1e-6, atol=1e-12)
        wanted = h1[k][:, None] * W2 * back / np.abs(h1[k] * (W2 @ back)).sum()
        np.testing.assert_allclose(edges(answer, k, "h1", "h2", (40, 40)), wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("form", ["positive", "signed"])
def test_channels_are_the_units_of_maps(engine: Engine, form: str) -> None:
    x = RNG.normal(size=(2, 2, 12, 12))
    answer = ask(engine, "convolved", x, ["x", "h1", "p"], (1, 3, 3), form=form, tau=0.0, top=4)
    for k in range(2):
        at = shares(answer, "h1")[k].sum(axis=(1, 2))
        named = {unit.unit[0]: unit.share for unit in answer.supports[k].layers["h1"].top}
        np.testing.assert_allclose([named.get(c, 0) for c in range(4)], at, rtol=1e-5, atol=1e-9)
        pooled = edges(answer, k, "h1", "p", (4, 4))  # a pool passes each channel by itself
        np.testing.assert_allclose(pooled, np.diag(at), rtol=1e-5, atol=1e-7)
        to_x = edges(answer, k, "x", "h1", (2, 4)).sum(axis=1)
        np.testing.assert_allclose(to_x, shares(answer)[k].sum(axis=(1, 2)), rtol=1e-4, atol=1e-7)


def test_an_edge_is_never_more_than_the_share_of_its_unit(engine: Engine) -> None:
    answer = ask(engine, "dense", X, ["x", "h1"], tau=0.01, top=5)
    for found in answer.supports:
        own = {unit.unit: unit.share for unit in found.layers["x"].top}
        for one in found.edges:
            assert 0 < one.share <= own[one.unit] * (1 + 1e-6)


def test_of_samples_with_few_units_the_others_have_edges(engine: Engine) -> None:
    alone = [ask(engine, "dense", X[k : k + 1], ["x", "h1"], tau=0.05, top=6).supports[0] for k in range(4)]
    together = ask(engine, "dense", X, ["x", "h1"], tau=0.05, top=6).supports
    assert len({len(one.layers["h1"].top) for one in together}) > 1
    for one, other in zip(alone, together, strict=True):
        assert [e[:4] for e in one.edges] == [e[:4] for e in other.edges]
        np.testing.assert_allclose([e.share for e in one.edges], [e.share for e in other.edges], rtol=1e-9)


@pytest.mark.parametrize("form", ["positive", "signed"])
def test_a_shift_of_the_input_shifts_the_support_and_its_boxes(engine: Engine, form: str) -> None:
    """Strides of 1, and borders that nothing reaches."""
    rng = np.random.default_rng(7)
    net = model(
        """(float[N,2,20,20] x) => (float[N,1,20,20] y) {
            c1 = Conv <pads = [1,1,1,1]> (x, k1) h1 = Relu(c1) c2 = Conv <pads = [1,1,1,1]> (h1, k2) h2 = Relu(c2)
            y = Conv (h2, k3)
        }""",
        k1=rng.normal(size=(5, 2, 3, 3)).astype(np.float32), k2=rng.normal(size=(5, 5, 3, 3)).astype(np.float32),
        k3=np.abs(rng.normal(size=(1, 5, 1, 1))).astype(np.float32),
    )  # fmt: skip
    engine.add("stride 1", net)
    x = np.zeros((1, 2, 20, 20))
    x[..., 3:10, 4:11] = rng.normal(size=(1, 2, 7, 7))
    here = ask(engine, "stride 1", x, index=(0, 6, 7), form=form, budget=0.02)
    moved = ask(engine, "stride 1", np.roll(x, (5, 4), (2, 3)), index=(0, 11, 11), form=form, budget=0.02)
    np.testing.assert_allclose(shares(moved), np.roll(shares(here), (5, 4), (2, 3)), rtol=1e-5, atol=1e-9)
    for one, other in zip(*(a.supports[0].layers["x"].boxes for a in (here, moved)), strict=True):
        assert other[:5] == (one.top + 5, one.left + 4, one.bottom + 5, one.right + 4, one.size)


def two(body: str, **weights: Any) -> Any:
    return model(f"(double[N,3] a, double[N,3] b) => (double[N,2] y) {{ {body} }}", **weights)


def test_sources_share_one_mass(engine: Engine) -> None:
    engine.add(
        "two", two("p = MatMul(a, w) q = MatMul(b, v) y = Add(p, q)", w=W1[:3, :2], v=0.01 * W1[3:6, :2])
    )
    inputs = {"a": X[:2, :3], "b": X[:2, 3:6]}
    request = AttributionRequest("two", inputs, "fb_trace", target=Target(index=0), tau=0.0)
    answer = engine.attribute(request)
    size = np.abs(inputs["a"] * W1[:3, 0]).sum(axis=1) + 0.01 * np.abs(inputs["b"] * W1[3:6, 0]).sum(axis=1)
    np.testing.assert_allclose(shares(answer, "a"), inputs["a"] * W1[:3, 0] / size[:, None], rtol=1e-9)
    for one in answer.supports:
        np.testing.assert_allclose(one.layers["a"].mass + one.layers["b"].mass, 1, rtol=1e-9)


def test_a_source_that_only_a_gate_reads_has_nothing(engine: Engine) -> None:
    engine.add(
        "gate",
        two("p = MatMul(a, w) q = MatMul(b, v) s = Sigmoid(q) y = Mul(p, s)", w=W1[:3, :2], v=W1[3:6, :2]),
    )
    inputs = {"a": X[:1, :3], "b": X[:1, 3:6]}
    request = AttributionRequest("gate", inputs, "fb_trace", target=Target(index=0), tau=0.0, form="positive")
    answer = engine.attribute(request)
    np.testing.assert_allclose(shares(answer, "a").sum(), 1, rtol=1e-9)
    assert not shares(answer, "b").any()


def test_supports_travel_with_the_answer(engine: Engine) -> None:
    request = AttributionRequest(
        "convolved", {"x": RNG.normal(size=(2, 2, 12, 12))}, "fb_trace", ["x", "p"],
        targets=[Target(index=(1, 3, 3)), Target(index=(0, 2, 2))], top=2,
    )  # fmt: skip
    answer = engine.attribute(request)
    assert len(answer.supports) == 4
    message = pb.AttributionSummary.FromString(events.to_summary(answer).SerializeToString())
    back = events.from_summary(message, [layer.values for layer in answer.layers.values()])
    assert back.supports == answer.supports
    for k, each in enumerate(back.each()):
        assert each.supports == answer.supports[2 * k : 2 * k + 2]


def test_boxes_are_drawn_over_the_maps_that_they_are_of(engine: Engine) -> None:
    x = RNG.normal(size=(1, 2, 12, 12))
    answer = ask(engine, "convolved", x, ["x", "p"], (1, 3, 3), form="signed")
    image = Shown(images=np.ones((1, 3, 24, 24)))
    for name, scale in (("x", 2.0), ("p", 4.0)):
        scene = scene_of(answer, answer.layers[name], 0, image)
        alone, over = (one for one in scene.panels if isinstance(one, HeatPanel))
        boxes = answer.supports[0].layers[name].boxes
        wanted = np.array(
            [(b.top, b.left, b.bottom - b.top + 1, b.right - b.left + 1) for b in boxes[:8]], float
        )
        np.testing.assert_allclose(alone.outlines(), wanted)
        np.testing.assert_allclose(over.outlines(), wanted * scale)
        assert any("of the mass that are kept" in words for words in scene.notes)
    plain = ask(engine, "convolved", x, index=(1, 3, 3), form="signed", tau=0.99)
    scene = scene_of(plain, plain.layers["x"], 0, image)
    assert not any("boxes" in words for words in scene.notes)


def test_grey_images_have_no_channels_where_that_is_said(engine: Engine) -> None:
    engine.add(
        "grey",
        model(
            "(float[N,6,5] x) => (float[N,1] y) { f = Flatten(x) y = MatMul(f, w) }",
            w=W1[:30, :1].astype(np.float32),
        ),
    )
    x = RNG.normal(size=(1, 6, 5))
    answer = ask(engine, "grey", x, form="signed", budget=0.2, channel_axis=0)
    (found,) = answer.supports
    assert (found.layers["x"].kept, found.layers["x"].positions) == (6, (6, 5))
    assert sum(box.size for box in found.layers["x"].boxes) == 6
    scene = scene_of(answer, answer.layers["x"], 0, Shown(images=x))
    assert all(one.boxes for one in scene.panels if isinstance(one, HeatPanel))


def test_outlines_of_cells_that_are_sums_are_in_cells() -> None:
    panel = HeatPanel("map", np.ones((5, 5)), 1.0, None, (10, 10), True, (Box(2, 4, 5, 9, 1, 1.0),))
    assert panel.outlines() == [(1.0, 2.0, 2.0, 3.0)]


def test_a_layer_without_positions_has_no_boxes_and_one_with_three_none_either() -> None:
    found = layer_support(np.array([0.0, -0.5, 0.25]), None, top=1)
    assert (found.kept, found.units, found.mass, found.boxes, found.top) == (
        2,
        3,
        0.75,
        (),
        (Unit((1,), -0.5),),
    )
    found = layer_support(np.ones((2, 2, 2, 2)) / 16, 0, top=2)
    assert (found.positions, found.boxes, found.top) == ((), (), (Unit((0,), 0.5), Unit((1,), 0.5)))


def test_parts_are_those_that_neighbours_connect() -> None:
    """Against a flood from each position, on maps of every density."""
    rng = np.random.default_rng(0)
    for density in (0.1, 0.4, 0.6):
        values = rng.random((17, 13)) * (rng.random((17, 13)) < density)
        left = {tuple(at) for at in np.argwhere(values > 0).tolist()}
        wanted = []
        while left:
            waiting, part = [left.pop()], []
            while waiting:
                row, column = waiting.pop()
                part.append((row, column))
                around = {(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
                left -= around
                waiting += around
            rows, columns = zip(*part, strict=True)
            wanted.append((min(rows), min(columns), max(rows), max(columns), len(part)))
        found = layer_support(values[None], 0, most_boxes=1000)
        assert sorted(box[:5] for box in found.boxes) == sorted(wanted)
        assert found.parts == len(wanted)
        np.testing.assert_allclose(sum(box.mass for box in found.boxes), values.sum())

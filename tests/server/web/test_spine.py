"""Layers as a spine with branches: who follows whom, what is a cut, and how much of the change goes around a branch."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_attribution.server.engine import Engine
from onnx_attribution.server.web.spine import drawn, rows_of
from onnx_attribution.values import EVERY_KIND, AttributionRequest, Target

# All activations are above 0 with a reference of 0, so that each way through a network carries the product of its
# weights: the shares below are sums of ways by hand.
NETWORKS = {
    # s = a + relu(2a): of 3 parts 2 come by the branch.
    "residual": (
        "m (float[N,1,2,2] x) => (float[N,1] y) "
        "{ a = Relu(x) b = Mul(a, two) c = Relu(b) s = Add(c, a) r = Relu(s) y = ReduceSum<keepdims=0>(r, axes) }",
        {
            "x": (True, 1.0, []),
            "a": (True, 1.0, ["x"]),
            "c": (False, 2 / 3, ["a"]),
            "s": (True, 1.0, ["a", "c"]),
            "r": (True, 1.0, ["s"]),
            "y": (True, None, ["r"]),
        },
    ),
    # b = 2a, c = a + b, y = a + b + c = 6a: b itself and in c makes 4 of 6, c 3 of 6.
    "dense": (
        "m (float[N,1,2,2] x) => (float[N,1] y) "
        "{ a = Relu(x) t = Mul(a, two) b = Relu(t) j = Concat<axis=1>(a, b) u = ReduceSum(j, one) c = Relu(u) "
        "k = Concat<axis=1>(j, c) v = ReduceSum(k, one) y = ReduceSum<keepdims=0>(v, axes) }",
        {
            "x": (True, 1.0, []),
            "a": (True, 1.0, ["x"]),
            "b": (False, 4 / 6, ["a"]),
            "c": (False, 3 / 6, ["a", "b"]),
            "y": (True, None, ["a", "b", "c"]),
        },
    ),
    # Of 4 pixels of 1: 4 over the skip; the pool has 1, which the other way makes 3 · 4 of.
    "u-shaped": (
        "m (float[N,1,2,2] x) => (float[N,1] y) "
        "{ a = Relu(x) p = AveragePool<kernel_shape=[2,2]>(a) t = Mul(p, three) b = Relu(t) "
        "u = Resize<mode=\"nearest\">(b, , scales) k = Concat<axis=1>(a, u) v = ReduceSum(k, one) r = Relu(v) "
        "y = ReduceSum<keepdims=0>(r, axes) }",
        {
            "x": (True, 1.0, []),
            "a": (True, 1.0, ["x"]),
            "p": (False, 12 / 16, ["a"]),
            "b": (False, 12 / 16, ["p"]),
            "r": (True, 1.0, ["a", "b"]),
            "y": (True, None, ["r"]),
        },
    ),
}  # fmt: skip
WEIGHTS = {
    "two": np.array(2, np.float32),
    "three": np.array(3, np.float32),
    "one": np.array([1]),
    "axes": np.array([2, 3]),
    "both": np.array([1, 2]),
    "scales": np.array([1, 1, 2, 2], np.float32),
}


def spine(folder: Path, text: str, x: Any, method: str, **more: Any) -> list[dict[str, Any]]:
    """Returns the rows of a model in ONNX text."""
    file = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    named = set(re.findall(r"\w+", text))
    file.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in WEIGHTS.items() if name in named
    )
    onnx.save(file, folder / "m.onnx")
    with Engine(provider="cpu") as engine:
        engine.add("m", folder / "m.onnx")
        layers = (*engine.info("m").sources, EVERY_KIND)
        answer = engine.attribute(AttributionRequest("m", {"x": x}, method, layers, **more))
        rows: list[dict[str, Any]] = rows_of(answer, engine.layers("m", target=answer.target.tensor))["rows"]
    return rows


def links(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns after which layers each row says to come, where it says nothing the one before it."""
    names = [row["name"] for row in rows]
    return {row["name"]: sorted(row["after"] or names[max(k - 1, 0) : k]) for k, row in enumerate(rows)}


@pytest.mark.parametrize("method", ["deeplift_rescale", "neuron_ig"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_branches_and_what_goes_around_them_are_those_of_the_network(
    tmp_path: Path, kind: str, method: str
) -> None:
    text, wanted = NETWORKS[kind]
    rows = spine(tmp_path, text, np.ones((1, 1, 2, 2), np.float32), method)
    assert [row["name"] for row in rows] == list(wanted)
    assert links(rows) == {name: before for name, (_, _, before) in wanted.items()}
    for row in rows:
        cut, share, _ = wanted[row["name"]]
        assert row["cut"] == cut, row["name"]
        assert row["share"] == (None if share is None else pytest.approx(share, abs=1e-4)), row["name"]
        assert row["around"] == (None if cut or share is None else pytest.approx(1 - share, abs=1e-4))


def test_what_passes_attention_is_the_integral_along_the_path(tmp_path: Path) -> None:
    """y = sum(x + softmax(x xT) x): of its change, that by the softmax is the integral of (sum of x's row) dP."""
    text = """m (float[N,3,2] x) => (float[N] y) { k = Transpose<perm=[0,2,1]>(x) s = MatMul(x, k)
        p = Softmax<axis=-1>(s) o = MatMul(p, x) h = Add(x, o) y = ReduceSum<keepdims=0>(h, both) }"""
    x = np.array([[[1.0, 0.5], [-0.5, 2.0], [0.3, -1.0]]])

    def softmax(t: float) -> Any:
        e = np.exp(t * t * x[0] @ x[0].T)
        return e / e.sum(axis=1, keepdims=True)

    grid = np.linspace(0, 1, 4001)
    passes = sum(
        float(((b + a) / 2 * x[0].sum(axis=1) * (softmax(b) - softmax(a))).sum())
        for a, b in itertools.pairwise(grid)
    )
    change = float((x[0] + softmax(1.0) @ x[0]).sum())
    rows = spine(tmp_path, text, x.astype(np.float32), "neuron_ig")
    (found,) = [row for row in rows if row["name"] == "p"]
    assert links(rows) == {"x": [], "p": ["x"], "h": ["p", "x"], "y": ["h"]}
    # float32, and a path of some 60 points
    assert found["share"] == pytest.approx(passes / change, abs=2e-3)
    assert found["around"] == pytest.approx(1 - passes / change, abs=2e-3)


def test_layers_are_those_that_lead_to_the_chosen_output(tmp_path: Path) -> None:
    text = "m (float[N,2] x) => (float[N,2] y, float[N,2] z) { a = Relu(x) y = Neg(a) b = Tanh(a) z = Mul(b, a) }"
    rows = spine(tmp_path, text, np.ones((1, 2), np.float32), "gradient", target=Target("z", 1))
    assert [(row["name"], row["cut"]) for row in rows] == [
        ("x", True),
        ("a", True),
        ("b", False),
        ("z", True),
    ]
    assert links(rows) == {"x": [], "a": ["x"], "b": ["a"], "z": ["a", "b"]}
    assert rows[-1]["target"] == "1"


def test_every_way_of_a_drawing_leads_from_its_layer_to_those_behind_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        names = [f"l{k}" for k in range(12)]
        links = [(a, b) for k, b in enumerate(names) for a in names[:k] if rng.random() < 0.25]
        place = {name: k for k, name in enumerate(names)}
        spans = [(place[a], place[b]) for a, b in links]
        cuts = {name for name, k in place.items() if not any(a < k < b for a, b in spans)}
        lines: dict[int, set[str]] = {}  # from where one comes who is on a line
        for name, row in zip(names, drawn(names, links, cuts), strict=True):
            came: set[str] = set()
            for piece in row.lines:
                if piece.half == "above":
                    assert piece.end == row.at
                    came |= lines.pop(piece.start)
            assert came == {a for a, b in links if b == name}
            for piece in row.lines:
                if piece.half == "below":
                    assert piece.start == row.at
                    lines.setdefault(piece.end, set()).add(name)
            assert (row.at == 0) == (name in cuts)
        assert not lines

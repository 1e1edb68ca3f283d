"""Rows with -inf in place of hidden scores: every softmax has the gradient and the contributions of the scores left.

A row of which all is hidden is no number to Softmax, and passes nothing on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.programs import contributions, gradients, parsed

Array = NDArray[Any]
HIDDEN = np.array([[0, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]], bool)
"""Of four keys, for each of three queries."""
NONE_LEFT = np.array([[0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)


def softmax(scores: Array) -> Array:
    """Over the last axis; 0 where all are hidden."""
    top = scores.max(axis=-1, keepdims=True)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    return np.asarray(e / np.maximum(e.sum(axis=-1, keepdims=True), 1e-300))


def log_sum(scores: Array) -> Array:
    return np.asarray(np.log(np.exp(scores).sum(axis=-1, keepdims=True)))


def heads(x: Array, count: int) -> Array:
    """`[B, S, W]` as `[B, heads, S, W / heads]`."""
    return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def attended(q: Array, keys: Array, mask: Array, count: int = 2, held: int | None = None) -> Array:
    """Attention of several heads to keys that are values too."""
    k = np.repeat(heads(keys, held or count), count // (held or count), axis=1)
    scores = heads(q, count) @ k.swapaxes(2, 3) / np.sqrt(k.shape[-1])
    made = softmax(scores + mask) @ k
    return np.asarray(made.swapaxes(1, 2).reshape(*q.shape[:2], -1))


@dataclass(frozen=True)
class Form:
    """A graph of x and of what its mask `m` adds, and the same in numpy."""

    text: str
    value: Callable[[Array, Array], Array]
    shape: tuple[int, ...] = (3, 4)
    wide: bool = False
    empty: bool = False

    def model(self, mask: Array) -> onnx.ModelProto:
        sizes, rank = ",".join(map(str, self.shape)), ",".join("?" * len(self.shape))
        model = parsed(f"g (float[{sizes}] x) => (float[{rank}] y) {{ {self.text} }}", 23)
        held = {"m": mask.astype(np.float32), "b": mask == 0, "w": WEIGHTS, "o": np.zeros(12, np.float32)}
        read = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(a, n) for n, a in held.items() if n in read
        )
        return model

    def mask(self, hidden: Array) -> Array:
        mask: Array = np.where(hidden, -np.inf, 0)
        return mask[None, None] if self.wide else mask


WEIGHTS = np.concatenate([np.eye(4)] * 3, axis=1).astype(np.float32)
QUERIES, KEYS = (1, 3, 4), np.random.default_rng(4).normal(size=(1, 4, 4))
KEYS_TEXT = "k = Constant<value = float[1,4,4] {" + ", ".join(f"{v:.9f}" for v in KEYS.ravel()) + "}>()"
KEYS = np.round(KEYS, 9)

FORMS = {
    "Softmax": Form("s = Add(x, m) y = Softmax(s)", lambda x, m: softmax(x + m), empty=True),
    "Softmax of columns": Form(
        "t = Transpose(x) n = Transpose(m) s = Add(t, n) u = Softmax<axis = 0>(s) y = Transpose(u)",
        lambda x, m: softmax(x + m),
        empty=True,
    ),
    "Softmax of chosen": Form(
        "n = Cast<to = 9>(m) s = Where(n, m, x) y = Softmax(s)", lambda x, m: softmax(x + m), empty=True
    ),
    "LogSoftmax": Form(
        "s = Add(x, m) l = LogSoftmax(s) n = Cast<to = 9>(m) h = Constant<value = float {0}>() y = Where(n, h, l)",
        lambda x, m: np.where(m == 0, x - log_sum(x + m), 0),
    ),
    "ReduceLogSumExp": Form(
        "s = Add(x, m) a = Constant<value = int64[1] {1}>() y = ReduceLogSumExp(s, a)",
        lambda x, m: log_sum(x + m),
    ),
    "Attention": Form(
        f"{KEYS_TEXT} y = Attention<q_num_heads = 2, kv_num_heads = 2>(x, k, k, m)",
        lambda x, m: attended(x, KEYS, m),
        QUERIES,
    ),
    "Attention, shared keys": Form(
        f"{KEYS_TEXT} q = Concat<axis = 2>(x, x) y = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, k, m)",
        lambda x, m: attended(np.concatenate([x, x], axis=2), KEYS, m, 4, 2),
        QUERIES,
    ),
    "Attention, truth values": Form(
        f"{KEYS_TEXT} y = Attention<q_num_heads = 2, kv_num_heads = 2>(x, k, k, b)",
        lambda x, m: attended(x, KEYS, m),
        QUERIES,
    ),
    "MultiHeadAttention": Form(
        f"{KEYS_TEXT} y = com.microsoft.MultiHeadAttention<num_heads = 2>(x, k, k, , , m)",
        lambda x, m: attended(x, KEYS, m),
        QUERIES,
        wide=True,
    ),
    "Attention of com.microsoft": Form(
        "y = com.microsoft.Attention<num_heads = 2>(x, w, o, , , m)",
        lambda x, m: attended(x, x, m),
        (1, 4, 4),
        wide=True,
    ),
}  # fmt: skip


def hidden_of(form: Form, hidden: Array) -> Array:
    """A fourth query where there are as many as keys."""
    return hidden if form.shape[-2] == 3 else np.concatenate([hidden, hidden[:1]])


CASES = [(name, False) for name in FORMS] + [(name, True) for name, form in FORMS.items() if form.empty]


@pytest.mark.parametrize(("name", "all_of_a_row"), CASES)
def test_the_gradient_is_that_of_the_scores_that_are_left(name: str, all_of_a_row: bool) -> None:
    """Against differences of the definition in float64."""
    form, rng = FORMS[name], np.random.default_rng(1)
    mask = form.mask(hidden_of(form, NONE_LEFT if all_of_a_row else HIDDEN))
    x, direction = (rng.normal(size=form.shape).astype(np.float32) for _ in range(2))
    weight = rng.normal(size=form.value(x, mask).shape)
    found = gradients(form.model(mask), {"x": x}, ["x"], weight)["x"]
    ends = [form.value(x.astype(np.float64) + e * direction, mask) for e in (1e-6, -1e-6)]
    slope = float(((ends[0] - ends[1]) * weight).sum()) / 2e-6
    terms = found * direction
    assert np.abs(found).max() > 0
    assert abs(float(terms.sum()) - slope) <= 1e-5 * float(np.linalg.norm(terms)) + 1e-6
    if form.shape == (3, 4):
        np.testing.assert_array_equal(found[np.isinf(mask)], 0)


@pytest.mark.parametrize("name", FORMS)
def test_the_contributions_sum_over_the_scores_that_are_left(name: str) -> None:
    form, rng = FORMS[name], np.random.default_rng(1)
    mask = form.mask(hidden_of(form, HIDDEN))
    x, y = (rng.normal(size=form.shape).astype(np.float32) for _ in range(2))
    values = [form.value(v.astype(np.float64), mask) for v in (x, y)]
    weight = rng.normal(size=values[0].shape)
    total, change, size = contributions(form.model(mask), {"x": x}, {"x": y}, weight)
    expected = float(((values[0] - values[1]) * weight).sum())
    assert size > 0
    assert abs(total - change) <= 1e-5 * size
    assert abs(total - expected) <= 1e-5 * size


def test_a_row_that_is_hidden_at_both_ends_gets_nothing() -> None:
    """The other rows have what they have without it."""
    form, rng = FORMS["Softmax"], np.random.default_rng(1)
    mask = form.mask(NONE_LEFT)
    x, y = (rng.normal(size=form.shape).astype(np.float32) for _ in range(2))
    weight = rng.normal(size=form.shape)
    _, _, size = contributions(form.model(mask), {"x": x}, {"x": y}, weight)
    _, _, others = contributions(form.model(mask), {"x": x}, {"x": y}, weight * [[1], [0], [1]])
    assert size > 0
    assert abs(size - others) <= 1e-6 * size

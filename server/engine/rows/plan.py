"""Quadrature along a path as data: where the rows lie and what is summed over them.

A plan speaks of one sample: `alphas` are its nodes, and `fine` and `coarse` the terms over node numbers, the latter
from the same nodes where they nest, for an error estimate out of the same run. `batches` lays the plans of many
samples out as rows, as many as fit in a run.

The default is the trapezoid in hidden space with both ends. Captum's five names give Captum's numbers: for Neuron
Integrated Gradients the differences of activations between `steps + 1` nodes with the gradient of the left one
(`LayerConductance`), for Integrated Gradients its weights, whose trapezoid sums to (n - 1)/n.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.methods import Quadrature

Floats = NDArray[np.float64]
KEPT = 20_000  # terms up to which the rows of a plan are kept


@dataclass(frozen=True)
class Term:
    """One summand: weight * g[gradient] * (h[right] - h[left]), over node numbers."""

    gradient: int
    left: int
    right: int
    weight: float


@dataclass(frozen=True, eq=False)
class Plan:
    """The nodes of one sample and the sums over them; `coarse` is empty where no estimate can be made.

    Evaluated are `points`: the nodes, and the ends that are none of them, which give the target's change.
    """

    alphas: Floats
    fine: tuple[Term, ...]
    coarse: tuple[Term, ...]

    @functools.cached_property
    def points(self) -> Floats:
        """The nodes, then the ends that are missing."""
        return np.concatenate([self.alphas, [end for end in (0.0, 1.0) if end not in self.alphas]])

    @functools.cached_property
    def _last_needs(self) -> dict[int, int]:
        """Of each node the last point that a term needs beside it."""
        found: dict[int, int] = {}
        for term in (*self.fine, *self.coarse):
            nodes = (term.gradient, term.left, term.right)
            for node in nodes:
                found[node] = max(found.get(node, -1), *nodes)
        return found

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """What a run cannot divide without evaluating further rows twice, in the order of the path.

        Where a term lies on both sides of its gradient it is a part on either: what two groups share is one row.
        """
        used = {n for term in (*self.fine, *self.coarse) for n in (term.gradient, term.left, term.right)}
        found = [Group((end,), ()) for end in sorted({*self.ends} - used)]
        parts = sorted(
            (part for level, terms in enumerate((self.fine, self.coarse)) for part in _parts(terms, level)),
            key=lambda part: (min(part.nodes), max(part.nodes)),
        )
        start, last = 0, -1
        for k, part in enumerate(parts):
            if k > start and min(part.nodes) >= last:
                found.append(_group(parts[start:k]))
                start = k
            last = max(last, *part.nodes)
        return (*found, _group(parts[start:]))

    def needed_from(self, point: int) -> set[int]:
        """The nodes before a point which terms need that are complete only there or behind it."""
        return {node for node, last in self._last_needs.items() if node < point <= last}

    @functools.cached_property
    def ends(self) -> tuple[int, int]:
        """The numbers of the points at x' and at x."""
        return int(np.flatnonzero(self.points == 0)[0]), int(np.flatnonzero(self.points == 1)[0])


@dataclass(frozen=True)
class Part:
    """A term, by its level and its number there, or one side of it: from one node to another."""

    level: int
    number: int
    term: Term
    left: int
    right: int

    @property
    def nodes(self) -> tuple[int, int, int]:
        return self.term.gradient, self.left, self.right


@dataclass(frozen=True)
class Group:
    """Parts of terms, and the nodes that they need."""

    nodes: tuple[int, ...]
    parts: tuple[Part, ...]


def _parts(terms: Sequence[Term], level: int) -> Iterator[Part]:
    for number, term in enumerate(terms):
        nodes = [term.left, term.right]
        if term.left < term.gradient < term.right:
            nodes.insert(1, term.gradient)
        for left, right in itertools.pairwise(nodes):
            yield Part(level, number, term, left, right)


def _group(parts: Sequence[Part]) -> Group:
    return Group(tuple(sorted({n for part in parts for n in part.nodes})), tuple(parts))


@dataclass(frozen=True)
class Batch:
    """Rows and terms of one run, named as the inputs of a path program; slot 2 s is sample s, slot 2 s + 1 its coarse
    sum."""

    row_sample: NDArray[np.int64]
    row_alpha: NDArray[np.float64]
    gradient_row: NDArray[np.int64]
    left_row: NDArray[np.int64]
    right_row: NDArray[np.int64]
    weight: NDArray[np.float64]
    slot: NDArray[np.int64]
    nodes: NDArray[np.int64]


def captum_alphas(quadrature: Quadrature, count: int) -> Floats:
    """Captum's nodes (captum/attr/_utils/approximation_methods.py)."""
    if quadrature == "riemann_left":
        return np.linspace(0, 1 - 1 / count, count)
    if quadrature == "riemann_right":
        return np.linspace(1 / count, 1, count)
    if quadrature == "riemann_middle":
        return np.linspace(1 / (2 * count), 1 - 1 / (2 * count), count)
    if quadrature == "riemann_trapezoid":
        return np.linspace(0, 1, count)
    return gauss_legendre(count)[0]


def captum_weights(quadrature: Quadrature, count: int) -> Floats:
    """Captum's step sizes; those of riemann_trapezoid sum to (count - 1)/count."""
    if quadrature == "gausslegendre":
        return gauss_legendre(count)[1]
    weights = np.full(count, 1 / count)
    if quadrature == "riemann_trapezoid":
        weights[[0, -1]] /= 2
    return weights


@functools.lru_cache(maxsize=64)
def gauss_legendre(count: int) -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss-Legendre quadrature on 0..1, read-only.

    By Newton's method on the Legendre polynomial, O(count^2); numpy's `leggauss` finds eigenvalues in O(count^3).
    """
    x = -np.cos(np.pi * (np.arange(1, count + 1) - 0.25) / (count + 0.5))
    for _ in range(10):
        before, p = np.ones_like(x), x
        for n in range(2, count + 1):
            before, p = p, ((2 * n - 1) * x * p - (n - 1) * before) / n
        slope = count * (x * p - before) / (x * x - 1)
        x = x - p / slope
        if np.abs(p / slope).max() < 1e-14:
            break
    nodes, weights = np.asarray((1 + x) / 2), np.asarray(1 / ((1 - x * x) * slope**2))
    nodes.flags.writeable = weights.flags.writeable = False
    return nodes, weights


@functools.lru_cache(maxsize=8)
def conductance_plan(quadrature: Quadrature, steps: int) -> Plan:
    """The plan of Neuron Integrated Gradients: gradients times differences of activations."""
    rule = quadrature if quadrature in ("trapezoid", "left", "right") else "left"
    alphas = np.arange(steps + 1) / steps if rule == quadrature else captum_alphas(quadrature, steps + 1)
    everything = list(range(len(alphas)))
    halves = everything[::2] + ([everything[-1]] if steps % 2 else [])
    coarse = _differences(rule, halves) if steps > 1 else ()
    return Plan(alphas, _differences(rule, everything), coarse)


def _differences(rule: str, nodes: Sequence[int]) -> tuple[Term, ...]:
    """Terms over the segments between nodes; the two halves of the trapezoid that share a gradient are one term."""
    pairs = list(itertools.pairwise(nodes))
    if rule == "left":
        return tuple(Term(a, a, b, 1.0) for a, b in pairs)
    if rule == "right":
        return tuple(Term(b, a, b, 1.0) for a, b in pairs)
    before, after = [nodes[0], *nodes[:-1]], [*nodes[1:], nodes[-1]]
    return tuple(Term(n, a, b, 0.5) for n, a, b in zip(nodes, before, after, strict=True))


@functools.lru_cache(maxsize=8)
def mean_plan(quadrature: Quadrature, steps: int) -> Plan:
    """The plan of Integrated Gradients: a weighted mean of gradients."""
    if quadrature in ("trapezoid", "left", "right"):
        alphas = np.arange(steps + 1) / steps
        chosen = {"trapezoid": slice(None), "left": slice(None, -1), "right": slice(1, None)}[quadrature]
        alphas = alphas[chosen]
        weights = np.full(len(alphas), 1 / steps)
        if quadrature == "trapezoid":
            weights[[0, -1]] /= 2
    else:
        alphas, weights = captum_alphas(quadrature, steps), captum_weights(quadrature, steps)
    fine = _means(range(len(alphas)), weights)
    if steps == 1:
        return Plan(alphas, fine, ())
    if quadrature == "gausslegendre":
        half = max(steps // 2, 1)
        extra = captum_alphas(quadrature, half)
        numbers = range(len(alphas), len(alphas) + half)
        return Plan(np.concatenate([alphas, extra]), fine, _means(numbers, captum_weights(quadrature, half)))
    nodes = list(range(0, len(alphas), 2))
    if "trapezoid" in quadrature:
        nodes += [len(alphas) - 1] if len(alphas) % 2 == 0 else []
        gaps = np.diff(alphas[nodes])
        spread = np.concatenate([gaps, [0]]) / 2 + np.concatenate([[0], gaps]) / 2
    else:
        spread = np.ones(len(nodes))
    return Plan(alphas, fine, _means(nodes, spread * weights.sum() / spread.sum()))


def _means(nodes: Sequence[int], weights: Floats) -> tuple[Term, ...]:
    return tuple(Term(n, n, n, float(w)) for n, w in zip(nodes, weights, strict=True))


def batches(plan: Plan, samples: int, max_rows: int) -> Iterable[Batch]:
    """The rows and terms of all samples, at most `max_rows` (and at least 3) rows a run; few are laid out once.

    A row that two runs need is evaluated in both: one at each border of the trapezoid, and none of a mean.
    """
    lay = _kept if len(plan.fine) * samples <= KEPT else _batches
    return lay(plan, samples, max_rows)


def count_rows(plan: Plan, samples: int, max_rows: int) -> int:
    """How many rows `batches` evaluates in all; of many, those that two runs need are counted once."""
    if len(plan.fine) * samples > KEPT:
        return len(plan.points) * samples
    return sum(len(batch.row_sample) for batch in batches(plan, samples, max_rows))


def _batches(plan: Plan, samples: int, max_rows: int) -> Iterator[Batch]:
    limit = max(max_rows, 3)
    rows: dict[tuple[int, int], int] = {}
    taken: list[tuple[int, Part]] = []
    for sample in range(samples):
        for group in plan.groups:
            if len(rows) + sum((sample, node) not in rows for node in group.nodes) > limit:
                yield _batch(plan, rows, taken)
                rows, taken = {}, []
            for node in group.nodes:
                rows.setdefault((sample, node), len(rows))
            taken += [(sample, part) for part in group.parts]
    yield _batch(plan, rows, taken)


@functools.lru_cache(maxsize=8)
def _kept(plan: Plan, samples: int, max_rows: int) -> tuple[Batch, ...]:
    return tuple(_batches(plan, samples, max_rows))


def by_sample(batch: Batch) -> Iterator[tuple[int, Batch]]:
    """Each sample of a run with its own rows and terms; slots keep their numbers."""
    for sample in np.unique(batch.row_sample):
        rows, terms = batch.row_sample == sample, batch.slot // 2 == sample
        place = np.cumsum(rows) - 1
        yield (
            int(sample),
            Batch(
                batch.row_sample[rows],
                batch.row_alpha[rows],
                place[batch.gradient_row[terms]],
                place[batch.left_row[terms]],
                place[batch.right_row[terms]],
                batch.weight[terms],
                batch.slot[terms],
                batch.nodes[rows],
            ),
        )


def _batch(plan: Plan, rows: dict[tuple[int, int], int], taken: list[tuple[int, Part]]) -> Batch:
    terms: dict[tuple[int, int, int], tuple[int, int, int, float, int]] = {}
    for sample, part in taken:
        key = (part.level, sample, part.number)
        gradient, left, right = (rows[sample, node] for node in part.nodes)
        if key in terms:  # the other side of the term
            left = terms[key][1]
        terms[key] = (gradient, left, right, part.term.weight, 2 * sample + part.level)
    samples, nodes = np.asarray(list(rows), np.int64).T.copy()
    table = np.array(list(terms.values()), np.float64).reshape(-1, 5).T  # whole numbers are exact in it
    gradient, left, right, slot = table[[0, 1, 2, 4]].astype(np.int64)
    return Batch(samples, plan.points[nodes], gradient, left, right, table[3], slot, nodes)

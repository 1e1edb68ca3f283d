"""Curves of deletion and insertion: the target as groups of a layer go, or come back, in the order of their ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.ranks import Whole
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.interventions import Edit, Intervened, Patch, Ranked, Replacement
from onnx_attribution.parameters import shown
from onnx_attribution.values import Selection, Target

Kind = Literal["deletion", "insertion"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RESAMPLE: Literal["resample"] = "resample"


@dataclass(frozen=True, eq=False)
class Curve:
    """The target, and the class that is decided for, as groups go or come back, `[samples, points]`.

    At point k the `counts[k]` groups of the lowest ranks of `groups` are replaced (deletion), or are the only ones that
    are not (insertion).
    """

    kind: Kind
    groups: int
    counts: Whole
    values: Floats
    largest: Whole

    @property
    def shares(self) -> Floats:
        """Of each point, the share of groups."""
        return self.counts / self.groups

    @cached_property
    def area(self) -> Floats:
        """By sample the area under the curve over the share of groups, from 0 to 1, in units of the target: the mean
        value on the way. Small for a good deletion, large for a good insertion."""
        return _area(self.values, self.shares)

    @cached_property
    def turned(self) -> Floats:
        """By sample the lowest count at which another class is the largest than with nothing replaced (deletion), or
        the same (insertion); NaN where that never happens, and where there are no classes."""
        whole = self.largest[:, 0 if self.kind == "deletion" else -1]
        met = (self.largest != whole[:, None]) == (self.kind == "deletion")
        found = np.where(met.any(axis=1), self.counts[met.argmax(axis=1)], np.nan)
        return np.where(whole < 0, np.nan, found)


@dataclass(frozen=True, eq=False)
class Range:
    """Of each sample the least target on any of some curves, and how far the largest is above it; NaN where all are
    alike.

    A share of the change between the ends of a curve would turn round where the target rises as all goes, and be
    anything where it hardly changes.
    """

    low: Floats
    span: Floats

    @classmethod
    def of(cls, curves: Iterable[Curve]) -> Range:
        """That of curves of the same samples."""
        every = [one.values for one in curves]
        low = np.min([one.min(axis=1) for one in every], axis=0)
        span = np.max([one.max(axis=1) for one in every], axis=0) - low
        return cls(low, np.where(span > 0, span, np.nan))

    def values(self, one: Curve) -> Floats:
        """A curve as a share of the range."""
        return np.asarray((one.values - self.low[:, None]) / self.span[:, None])

    def area(self, one: Curve) -> Floats:
        """The area under that, by sample: DELETION or INSERTION of `client.audit.metrics.removal`."""
        return np.asarray((one.area - self.low) / self.span)


def _area(values: Floats, shares: Floats) -> Floats:
    return np.asarray((values[:, 1:] + values[:, :-1]) / 2 @ np.diff(shares))


def curve(
    asked: Any,
    model: str,
    inputs: Mapping[str, ArrayLike],
    ranks: Mapping[str, ArrayLike],
    *,
    kind: Kind = "deletion",
    to: Replacement | Mapping[str, Replacement] | Literal["resample"] = 0.0,
    points: int = 32,
    target: Target | Selection = None,
    donors: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
) -> Curve:
    """The curve of groups of layers, inputs included, in the order of their ranks: `ranks` are those of `ranks_of` or
    `random_ranks` by layer.

    `asked` is a client or an engine. Replaced elements become `to`: what an `Edit` takes, for all layers or by layer,
    or "resample", the layer's values at another sample, drawn for each sample from the donors (default: the samples
    themselves) by the seed. The curve has a point for each number of groups, or where these are more than `points` so
    many steps.

    Raises:
        InvalidArgument: ranks that do not fit the layers, or no curve of that kind.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"a curve is of the kind {' or '.join(KINDS)}, not {shown(kind)}")
    if points < 1:
        raise InvalidArgument(f"a curve has at least 1 step, not {points}")
    if not isinstance(ranks, Mapping) or not ranks:
        raise InvalidArgument(f"ranks are arrays by layer, not {shown(ranks)}")
    orders = {layer: np.asarray(each) for layer, each in ranks.items()}
    for layer, order in orders.items():
        if order.dtype.kind not in "iu" or not order.ndim or not order.size:
            raise InvalidArgument(
                f"the ranks of {layer!r} are {order.dtype.name} of shape {list(order.shape)}; they are integers "
                "[samples, ...], as of ranks_of"
            )
    samples = len(next(iter(orders.values())))
    groups = max(int(order.max()) for order in orders.values()) + 1
    counts = np.unique(np.linspace(0, groups, min(points, groups) + 1).round().astype(np.int64))
    replaced: Any = to
    if isinstance(to, str) and to == RESAMPLE:
        replaced = Patch(
            _others(samples, samples if donors is None else _count(donors), donors is None, seed)
        )
    if isinstance(replaced, Mapping) and (missing := orders.keys() - replaced.keys()):
        raise InvalidArgument(f"to says nothing of {', '.join(sorted(missing))}")
    to_of = {layer: replaced[layer] if isinstance(replaced, Mapping) else replaced for layer in orders}
    orders = {layer: _compact(order) for layer, order in orders.items()}
    edits = [
        [
            Edit(
                layer, Ranked(order, 0, int(k)) if kind == "deletion" else Ranked(order, int(k)), to_of[layer]
            )
            for layer, order in orders.items()
        ]
        for k in counts
    ]
    found: Intervened = asked.intervene(model, inputs, edits, target=target, donors=donors)
    if found.values.shape[1] != samples:
        raise InvalidArgument(f"there are ranks of {samples} samples, and {found.values.shape[1]} samples")
    return Curve(kind, groups, counts, found.values.T.copy(), found.largest.T.copy())


def _compact(order: NDArray[Any]) -> NDArray[Any]:
    """The ranks without the axes of a sample along which they are all alike, in the smallest type: less to send."""
    for axis in range(1, order.ndim):
        first = order.take([0], axis=axis)
        if (order == first).all():
            order = first
    return order.astype(np.min_scalar_type(int(order.max())))


def _count(donors: Mapping[str, ArrayLike]) -> int:
    return max((len(np.asarray(array)) for array in donors.values() if np.ndim(array)), default=1)


def _others(samples: int, donors: int, are_samples: bool, seed: int) -> Whole:
    """A donor for each sample, another than itself where donors are the samples."""
    rng = np.random.default_rng(seed)
    if not are_samples:
        return rng.integers(donors, size=samples)
    if samples == 1:
        raise InvalidArgument("resample needs several samples, or donors: the only sample cannot be its own")
    return (np.arange(samples) + rng.integers(1, samples, size=samples)) % samples

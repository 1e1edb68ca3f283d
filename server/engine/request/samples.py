"""Where the rows of a request lie: samples that share a run along their axes, or a run for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.server.engine.models.forward import forward, taken
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.inputs import batch_words, checked_inputs
from onnx_attribution.values import Array

MAX_SAMPLES = 256
WEIGHT = "target/weight"
"""The input of a program that holds the target's weights."""
Floats = NDArray[np.float64]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Run:
    """Samples as one run takes them: inputs and hidden sources at x, sources at x', the target's weights.

    `places` says where the samples lie in a tensor; None: they share it, or the only one has no axis for it.
    """

    places: Mapping[str, RowAxis | None]
    count: int
    x: Arrays
    baselines: Arrays = field(default_factory=dict)
    weight: Array = field(default_factory=lambda: np.empty(0))

    def feeds(self, *, baselines: bool = False) -> dict[str, Array]:
        """The inputs of a program of rows, with those of the rows at x' beside them on demand."""
        low = {f"baseline/{name}": array for name, array in self.baselines.items()} if baselines else {}
        return {**self.x, **low, WEIGHT: self.weight}

    def shapes(self, rows: int, *, baselines: bool = False) -> dict[str, tuple[int, ...]]:
        """The shapes of the feeds at this many rows."""
        return {
            name: array.shape
            if (place := self.places[name.removeprefix("baseline/")]) is None
            else tuple(rows * place.factor if k == place.axis else d for k, d in enumerate(array.shape))
            for name, array in self.feeds(baselines=baselines).items()
        }

    def take(self, numbers: Sequence[int], without: Set[str] = frozenset()) -> Run:
        """Some of the samples, in this order, `without` some of their inputs and sources."""
        if self.count == 1 and len(numbers) == 1:
            return self
        x, baselines, weight = (
            {
                name: taken(array, self.places[name], numbers)
                for name, array in arrays.items()
                if name not in without
            }
            for arrays in (self.x, self.baselines, {WEIGHT: self.weight})
        )
        return Run(self.places, len(numbers), x, baselines, weight[WEIGHT])

    def back(self, name: str, units: Array) -> Array:
        """The tensor in its own layout, of `[samples, *unit]`."""
        place = self.places[name]
        return units[0] if place is None else place.back(units)


@dataclass(frozen=True)
class Samples:
    """The samples of a request, each once for each of its `references`: `together` in one run, or in one run each."""

    runs: tuple[Run, ...]
    together: bool
    references: int = 1

    @classmethod
    def laid(
        cls,
        model: LoadedModel,
        given: Sequence[Arrays],
        places: Mapping[str, RowAxis | None],
        together: bool,
        references: int,
    ) -> Samples:
        """The samples of `split_samples`, where `places` says of sources, layers and targets where rows lie in them."""
        axes = {n: None if axis is None else RowAxis(axis) for n, axis in model.network.input_axes.items()}
        known = {**axes, **places}
        if together:
            return cls((Run(known, len(given), join_samples(model, given)),), together, references)
        return cls(tuple(Run(known, 1, one) for one in given), together, references)

    def filled(self, **fields: Sequence[Any]) -> Samples:
        """With other fields of its runs: one entry a run."""
        changes = (dict(zip(fields, values, strict=True)) for values in zip(*fields.values(), strict=True))
        runs = tuple(replace(run, **each) for run, each in zip(self.runs, changes, strict=True))
        return replace(self, runs=runs)

    def weighted(self, target: str, units: Floats, like: Sequence[Array]) -> Samples:
        """With the weights `[samples, *unit]` of a target, of which `like` holds an array for each run."""
        parts = self.split(target, units, [array.shape for array in like])
        return self.filled(
            places=[{**run.places, WEIGHT: self.place(target)} for run in self.runs],
            weight=[part.astype(array.dtype) for part, array in zip(parts, like, strict=True)],
        )

    @property
    def count(self) -> int:
        """How many there are, each reference counted."""
        return sum(run.count for run in self.runs)

    @property
    def a_run(self) -> int:
        """How many share a run."""
        return self.runs[0].count

    def place(self, name: str) -> RowAxis | None:
        """Where the samples lie in a tensor; None: nowhere."""
        return self.runs[0].places[name]

    def numbers(self, run: int) -> range:
        """Which samples a run holds."""
        return range(run * self.a_run, (run + 1) * self.a_run)

    def parts(self, limit: int) -> Iterator[Run]:
        """Runs of at most `limit` samples."""
        for run in self.runs:
            for start in range(0, run.count, limit):
                numbers = range(start, min(start + limit, run.count))
                yield run if len(numbers) == run.count else run.take(numbers)

    def take(self, numbers: Sequence[int], without: Set[str] = frozenset()) -> Run:
        """These samples as one run, which has to hold them all."""
        run = self.runs[numbers[0] // self.a_run]
        return run.take([number % self.a_run for number in numbers], without)

    def only(self, number: int) -> Samples:
        """One sample with one reference."""
        return Samples((self.take([number]),), self.together)

    def first(self, name: str, array: Array) -> Array:
        """A tensor of a run as `[samples, *unit]`; of a sample without an axis for it, the whole is the unit."""
        place = self.place(name)
        return array[None] if place is None else place.first(array)

    def units(self, name: str, array: Array) -> Floats:
        """The same in float64."""
        return np.asarray(self.first(name, array), np.float64)

    def ends(self, name: str) -> tuple[Array, Array]:
        """A source at x and at x' as `[samples, *unit]`, in its own type."""
        return self._joined(name, lambda run: run.x), self._joined(name, lambda run: run.baselines)

    def wide_ends(self, name: str) -> tuple[Floats, Floats]:
        """The same in float64."""
        high, low = self.ends(name)
        return high.astype(np.float64), low.astype(np.float64)

    def _joined(self, name: str, of: Callable[[Run], Arrays]) -> Array:
        return np.concatenate([self.first(name, of(run)[name]) for run in self.runs])

    def split(self, name: str, units: Floats, shapes: Sequence[tuple[int, ...]]) -> list[Floats]:
        """`[samples, *unit]` in the layout of a tensor, one entry a run; the shapes are those of the runs."""
        place = self.place(name)
        parts = [units[self.numbers(k)] for k in range(len(self.runs))]
        return [
            part.reshape(shape) if place is None else place.back(part)
            for part, shape in zip(parts, shapes, strict=True)
        ]


def split_samples(
    model: LoadedModel, inputs: Arrays, copies: int = 1, targets: int = 1
) -> list[dict[str, Array]]:
    """One entry a sample, each as the model takes it, `copies` times; they are asked about for this many targets.

    An input with one entry along its axis of samples, beside others with several, is shared by all.
    """
    single = model.network.batch == "single"
    places: dict[str, int] = {}
    stacked: set[str] = set()  # with an axis for the samples in front that the model does not take
    for info in model.inputs:
        array, shape = inputs[info.name], info.shape or ()
        if single and array.ndim == len(shape) + 1:
            stacked.add(info.name)
        if (axis := info.sample_axis(array.shape, model.network.batch)) is not None:
            places[info.name] = axis
    sizes = {name: inputs[name].shape[axis] for name, axis in places.items()}
    counts = {name: size for name, size in sizes.items() if size != 1 or name in stacked} or sizes
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
        raise InvalidArgument(
            f"the inputs hold different numbers of samples: {listed}; {batch_words(model)}",
            reason=Reason.SHAPE_MISMATCH,
        )
    count = next(iter(counts.values()), 1)
    if not 1 <= (actual := count * copies * targets) <= MAX_SAMPLES:
        times = (f" with {copies} references each" * (copies > 1)) + f" and {targets} targets" * (targets > 1)
        raise InvalidArgument(
            f"the request holds {count} samples{times}; it may hold 1 to {MAX_SAMPLES}{' in all' * bool(times)}",
            reason=Reason.REQUEST_TOO_LARGE, limit=MAX_SAMPLES, actual=actual,
        )  # fmt: skip

    def of(name: str, array: Array, k: int) -> Array:
        if name not in counts:
            return array
        return array[k] if name in stacked else np.take(array, [k], axis=places[name])

    return [{n: of(n, a, k) for n, a in inputs.items()} for k in range(count) for _ in range(copies)]


def join_samples(model: LoadedModel, samples: Sequence[Arrays]) -> dict[str, Array]:
    """The samples in one dict of arrays, along the batch axes."""
    axes = model.network.input_axes
    return {
        n: a if axes[n] is None else np.concatenate([sample[n] for sample in samples], axis=axes[n])
        for n, a in samples[0].items()
    }


def predict(model: LoadedModel, inputs: Arrays, outputs: Sequence[str] = ()) -> dict[str, Array]:
    """The outputs that are tensors, or any tensors by name, of all samples."""
    tensors = [x.name for x in model.outputs if x.shape is not None]
    names = [model.tensor(name) for name in outputs] or tensors
    checked = checked_inputs(model, inputs)
    samples = split_samples(model, checked)
    if model.network.batch != "single":
        return forward(model, join_samples(model, samples), names)
    found = [forward(model, sample, names) for sample in samples]
    if len(found) == 1 and all(checked[x.name].ndim == len(x.shape or ()) for x in model.inputs):
        return found[0]
    places = model.places_of(names)
    return {
        n: np.stack([f[n] for f in found])
        if (place := places[n]) is None
        else np.concatenate([f[n] for f in found], axis=place.axis)
        for n in names
    }

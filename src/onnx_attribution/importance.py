"""How much the units of a layer matter to each class: a record per image and per class. Needs numpy only.

    importance = Importance.load("importance.npz")
    importance.mean[importance.row(7)]  # of class 7, one number for each unit

The importance of unit k for class c at an image is alpha[k], the sum over the unit's positions of the gradient of the
class's logit by the layer (Selvaraju et al., Choose Your Neuron, arXiv 1808.02861). An image counts for its own class.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import AttributionError, InvalidArgument, Reason
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    ChannelSums,
    ModelInfo,
    Target,
)

__all__ = ["ANSWER_BYTES", "ITEM_BYTES", "Batch", "Importance", "Measuring", "begin", "labels_of"]

BATCH = 256
"""Samples of a batch at most."""
ITEM_BYTES, ANSWER_BYTES = 8 << 20, 2 << 20
"""What a batch that travels may take, and its answer."""
MOST_WARNINGS = 20

ARRAYS = ("alpha", "labels", "classes", "mean", "count", "std")
TEXTS = ("layer", "target", "digest", "channels")
LISTS = ("names", "warnings")


@dataclass(frozen=True, eq=False)
class Importance:
    """The importance of the K units of a layer for the C classes of N labelled images. Its fields are the keys of the
    npz file that `save` writes.

    `alpha` is `[N, K]`, the importance for the class of each image, and `labels` `[N]` these classes, as indices of the
    output. `classes` `[C]` are those of which there are images, rising; `count` `[C]` says how many, `mean` `[C, K]` is
    the mean of alpha over them, `std` `[C, K]` its standard deviation (divided by the count: 0 for one image). `names`
    has the names of the classes, if they are known. `layer` is the tensor, `target` the tensor of logits, `digest` that
    of the model file; `channels` is "auto" or the axis of the units, the samples in front.
    """

    layer: str
    alpha: NDArray[np.floating]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    target: str = ""
    digest: str = ""
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    channels: str = "auto"

    @property
    def channel_sums(self) -> ChannelSums:
        """What is to be asked so that the units are those of this record."""
        return "auto" if self.channels == "auto" else int(self.channels)

    @classmethod
    def of(
        cls,
        layer: str,
        alpha: Array,
        labels: NDArray[np.integer],
        *,
        target: str = "",
        digest: str = "",
        class_names: Mapping[int, str] | None = None,
        warnings: Sequence[str] = (),
        channels: ChannelSums = "auto",
    ) -> Self:
        """The record of alphas and labels; `class_names` are by the index of the output."""
        classes, places = np.unique(labels.astype(np.int64), return_inverse=True)
        shape = len(classes), alpha.shape[1]
        count = np.bincount(places, minlength=len(classes)).astype(np.int64)
        mean, std = np.empty(shape), np.empty(shape)
        for row in range(len(classes)):
            own = alpha[places == row].astype(np.float64)
            mean[row], std[row] = own.mean(axis=0), own.std(axis=0)
        named = [class_names.get(int(k), str(k)) for k in classes] if class_names else []
        return cls(
            layer,
            np.asarray(alpha),
            labels.astype(np.int64),
            classes,
            count,
            mean,
            std,
            target,
            digest,
            tuple(named),
            tuple(warnings),
            str(channels),
        )

    def row(self, label: int) -> int:
        """Where a class stands in `classes`, `count`, `mean` and `std`. Raises: InvalidArgument: no image is of it."""
        found = np.flatnonzero(self.classes == label)
        if not len(found):
            raise InvalidArgument(f"the importance of class {label} is not known: no image is of it")
        return int(found[0])

    def save(self, file: str | PathLike[str]) -> None:
        """Writes the npz file, under exactly this name. Raises: InvalidArgument: it cannot be written."""
        texts = {name: np.array(getattr(self, name), np.str_) for name in TEXTS + LISTS}
        arrays = {name: getattr(self, name) for name in ARRAYS}
        try:
            with open(file, "wb") as opened:
                np.savez_compressed(opened, **arrays, **texts)  # type: ignore[arg-type]  # its stubs have one keyword
        except OSError as error:
            raise InvalidArgument(f"{str(file)!r} cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, file: str | PathLike[str]) -> Self:
        """Reads what `save` wrote. Raises: InvalidArgument: the file is no such record, or its arrays do not fit."""
        try:
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as found:
                read = {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
            raise InvalidArgument(f"{str(file)!r} is no importance record: {error}", file=file) from error
        if missing := [name for name in ("layer", *ARRAYS) if name not in read]:
            raise InvalidArgument(
                f"{str(file)!r} is no importance record: it lacks {', '.join(missing)}", file=file
            )
        texts: dict[str, Any] = {name: str(read[name]) for name in TEXTS if name in read}
        lists: dict[str, Any] = {
            name: tuple(map(str, read[name].ravel().tolist())) for name in LISTS if name in read
        }
        record = cls(**{name: read[name] for name in ARRAYS}, **texts, **lists)
        if problem := record.problem():
            raise InvalidArgument(f"{str(file)!r} is no importance record: {problem}", file=file)
        return record

    def problem(self) -> str:
        """In words what does not fit together; "" where all does."""
        if self.alpha.ndim != 2 or self.alpha.dtype.kind != "f":
            return f"alpha is no array of floats [images, units], but of shape {list(self.alpha.shape)}"
        (n, k), c = self.alpha.shape, len(np.atleast_1d(self.classes))
        wanted = {"labels": (n,), "classes": (c,), "count": (c,), "mean": (c, k), "std": (c, k)}
        for name, shape in wanted.items():
            if (own := getattr(self, name)).shape != shape:
                return f"{name} has shape {list(own.shape)}, and alpha and classes ask for {list(shape)}"
        if not np.isin(self.labels, self.classes).all():
            return "labels holds a class that classes does not"
        if self.channels != "auto" and not self.channels.removeprefix("-").isdecimal():
            return f"channels is {self.channels!r}, neither auto nor an axis"
        return "names are not one for each class" if self.names and len(self.names) != c else ""


def labels_of(given: Any, samples: int | None = None, classes: int | None = None) -> NDArray[np.int64]:
    """Labels as indices of classes: of integers, of floats that are whole, or of one-hot rows.

    Raises:
        InvalidArgument: they are none of these, not one for each of `samples`, or no index of one of `classes`.
    """
    found = np.asarray(given)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim == 2 and found.dtype.kind in "biuf":
        found = _from_one_hot(found, classes)
    if found.ndim != 1 or found.dtype.kind not in "iuf":
        raise _refused(
            f"labels are an index of a class for each sample, or one-hot rows, not {found.dtype.name} of shape "
            f"{list(found.shape)}"
        )
    with np.errstate(invalid="ignore"):
        whole = found.astype(np.int64)
    if found.dtype.kind == "f" and not (whole == found).all():
        first = int(np.flatnonzero(whole != found)[0])
        raise _refused(f"labels[{first}] is {found[first]}, which is no index of a class")
    if samples is not None and len(whole) != samples:
        raise _refused(f"there are {samples} samples and {len(whole)} labels; each sample has one")
    outside = (whole < 0) if classes is None else (whole < 0) | (whole >= classes)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        known = (
            "indices count from 0" if classes is None else f"the output has the classes 0 to {classes - 1}"
        )
        raise _refused(f"labels[{first}] is {whole[first]}; {known}")
    return np.asarray(whole)


def _from_one_hot(rows: Array, classes: int | None) -> NDArray[np.int64]:
    if classes is not None and rows.shape[1] != classes:
        raise _refused(f"one-hot labels have {rows.shape[1]} columns, and the output has {classes} classes")
    right = np.isin(rows, (0, 1)).all(axis=1) & ((rows == 1).sum(axis=1) == 1)
    if not right.all():
        first = int(np.flatnonzero(~right)[0])
        raise _refused(
            f"labels[{first}] is no one-hot row: exactly one of its numbers is 1 and all others are 0"
        )
    return np.asarray(rows.argmax(axis=1), np.int64)


def _refused(text: str) -> InvalidArgument:
    return InvalidArgument(text, reason=Reason.TARGET_INVALID)


@dataclass(frozen=True)
class Batch:
    """Samples `start:stop`, and the target of each."""

    start: int
    stop: int
    inputs: Mapping[str, Array]
    target: Target


class Measuring:
    """An importance while it is measured: what is to be asked, batch by batch, and what came of it. It asks nobody.

    First the tensor `scores` is predicted for the `sample`, of which `classes` is told, and the `first` question asked,
    whose answer `settle` takes; where the tensor is not known, it is that of this answer. Then each of `batches` is
    asked about, and its answer taken by `add`.
    """

    def __init__(
        self,
        model: str,
        info: ModelInfo,
        inputs: Mapping[str, Array] | Array,
        labels: Any,
        *,
        layer: str,
        target: str | None = None,
        logit: bool | None = None,
        channels: ChannelSums = "auto",
        source: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Raises: InvalidArgument: inputs with different numbers of samples, or labels that are no classes."""
        if not isinstance(layer, str) or layer in ("*", "**"):
            raise InvalidArgument(
                f"importance is of one layer, by its name, not {layer!r}", reason=Reason.LAYER_INVALID
            )
        if channels is None:
            raise InvalidArgument('channels is "auto" or the axis of the channels', option="channels")
        self._model, self._info, self._layer, self._tensor, self._logit = model, info, layer, target, logit
        self._channels, self._source = channels, tuple(source)
        self._progress, self._done = progress, 0
        self._inputs = _named(info, inputs)
        known = {one.name: one for one in info.inputs}
        axes = {
            name: known[name].sample_axis(np.shape(array), info.batch) if name in known else None
            for name, array in self._inputs.items()
        }
        self._axes = {name: axis for name, axis in axes.items() if axis is not None}
        sizes = {name: np.shape(self._inputs[name])[axis] for name, axis in self._axes.items()}
        sizes = {name: size for name, size in sizes.items() if size != 1} or sizes
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name!r}: {size}" for name, size in sizes.items())
            raise InvalidArgument(
                f"the inputs hold different numbers of samples: {listed}", reason=Reason.SHAPE_MISMATCH
            )
        self._axes = {name: axis for name, axis in self._axes.items() if name in sizes}
        self.count = next(iter(sizes.values()), 1)
        if not self.count:
            raise InvalidArgument("there are no samples", reason=Reason.INPUT_INVALID)
        self._labels = labels_of(labels, self.count)
        self._given = labels
        self._behind: tuple[int, ...] = ()
        self._alpha = np.empty((0, 0), np.float32)
        self._warnings: dict[str, list[tuple[int, int]]] = {}
        self._names: dict[int, str] = {}
        self._found: Attribution | None = None

    def first(self, logit: bool) -> AttributionRequest:
        """The request about the first class at the first sample."""
        self._logit = logit
        return self.request(Batch(0, 1, self.sample, self._target([0])))

    @property
    def sample(self) -> dict[str, Array]:
        """The inputs of the first sample."""
        return self._taken(0, 1)

    def logits(self) -> tuple[bool, ...]:
        """Whether the target is to be a logit, one after the other until one is taken: of a final softmax it is."""
        return (True, False) if self._logit is None else (self._logit,)

    @property
    def scores(self) -> str | None:
        """The tensor whose shape says how many classes there are; None: that which the first answer is about."""
        outputs = [one.name for one in self._info.outputs if one.dtype.startswith(("float", "bfloat"))]
        return self._tensor or (outputs[0] if len(outputs) == 1 else None)

    def classes(self, name: str, scores: Array) -> None:
        """What the scores of the first sample say.

        Raises:
            InvalidArgument: the scores have more than one axis of classes, or a label is none of theirs.
        """
        shape = scores.shape[1:] if scores.ndim > 1 and scores.shape[0] == 1 else scores.shape
        if any(size != 1 for size in shape[1:]):
            raise InvalidArgument(
                f"{name!r} has shape {list(shape)} of one sample; importance is of classes along one axis: name a "
                "tensor of scores as the target",
                reason=Reason.TARGET_INVALID,
            )
        self._labels = labels_of(self._given, self.count, shape[0] if shape else 1)
        self._behind = (0,) * len(shape[1:])

    def settle(self, found: Attribution) -> None:
        """What the first answer says."""
        (layer,) = found.layers.values()
        self._alpha = np.full((self.count, layer.values.shape[1]), np.nan, layer.values.dtype)
        self._found = found

    def size(self, held: float, most: int = BATCH, answer: float | None = None) -> int:
        """How many samples a batch has: as many as take `held` bytes, and whose answer takes at most `answer` bytes."""
        size = min(most, BATCH, self.count)
        each = sum(np.asarray(one[0:1]).nbytes for one in self._first_axes()) or 1
        size = min(size, int(held) // each)
        if answer is not None:
            size = min(size, int(answer) // (self._alpha.shape[1] * self._alpha.itemsize + 1))
        return max(size, 1)

    def _first_axes(self) -> Iterator[Array]:
        for name, axis in self._axes.items():
            yield np.moveaxis(self._inputs[name], axis, 0)

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples, each with its own class as its target."""
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            labels = self._labels[start:stop].tolist()
            yield Batch(start, stop, self._taken(start, stop), self._target(labels))

    def _target(self, labels: Sequence[int]) -> Target:
        index = [(one, *self._behind) for one in labels] if self._behind else list(labels)
        return Target(self._tensor, index, logit=bool(self._logit))

    def request(self, batch: Batch) -> AttributionRequest:
        """The request about a batch."""
        return AttributionRequest(self._model, batch.inputs, target=batch.target, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What is asked of every batch."""
        return {
            "method": "gradient",
            "layers": (self._layer,),
            "source": self._source,
            "channel_sums": self._channels,
        }

    def add(self, batch: Batch, found: Attribution) -> None:
        """The answer about a batch."""
        (layer,) = found.layers.values()
        self._alpha[batch.start : batch.stop] = layer.values
        for words in found.warnings:
            self._warnings.setdefault(words, []).append((batch.start, batch.stop))
        labels = self._labels[batch.start : batch.stop].tolist()
        self._names.update(zip(labels, found.target.labels, strict=False))
        self._done += batch.stop - batch.start
        if self._progress is not None:
            self._progress(self._done, self.count)

    def refused(self, batch: Batch, error: AttributionError) -> AttributionError:
        """The refusal of a batch with the samples that it is about."""
        return error.reworded(f"samples {batch.start} to {batch.stop - 1}: {error.message}")

    def record(self) -> Importance:
        """The record, once all batches are answered."""
        assert self._found is not None
        (layer,) = self._found.layers
        named = self._names if any(self._names.values()) else None
        return Importance.of(
            layer,
            self._alpha,
            self._labels,
            target=self._found.target.tensor,
            digest=self._found.digest,
            class_names=named,
            warnings=list(self._worded()),
            channels=self._channels,
        )

    def _worded(self) -> Iterator[str]:
        """The warnings, each once, with the samples that it is about unless it is all."""
        batches = max((len(places) for places in self._warnings.values()), default=0)
        for words, places in list(self._warnings.items())[:MOST_WARNINGS]:
            about = ", ".join(f"{start} to {stop - 1}" for start, stop in places[:3])
            more = f" and {len(places) - 3} batches more" * (len(places) > 3)
            covered = sum(stop - start for start, stop in places)
            yield words if covered == self.count else f"samples {about}{more}: {words}"
        if (left := len(self._warnings) - MOST_WARNINGS) > 0 and batches:
            yield f"{left} more warnings are left out"

    def _taken(self, start: int, stop: int) -> dict[str, Array]:
        """Samples of the inputs."""
        found = dict[str, Array]()
        for name, array in self._inputs.items():
            axis = self._axes.get(name)
            found[name] = array if axis is None else array[(slice(None),) * axis + (slice(start, stop),)]
        return found


def _named(info: ModelInfo, inputs: Mapping[str, Array] | Array) -> dict[str, Array]:
    if isinstance(inputs, Mapping):
        return {name: np.asanyarray(array) for name, array in inputs.items()}
    if len(info.inputs) != 1:
        names = ", ".join(one.name for one in info.inputs)
        raise InvalidArgument(
            f"model {info.name!r} has {len(info.inputs)} inputs ({names}); give a dict of arrays by name",
            reason=Reason.INPUT_INVALID,
        )
    return {info.inputs[0].name: np.asanyarray(inputs)}


def begin(
    run: Measuring,
    attribute: Callable[[AttributionRequest], Attribution],
    predict: Callable[[str], Array],
) -> None:
    """Asks what has to be known before the first batch. Raises: AttributionError: there is no answer."""
    known = run.scores
    if known is not None:
        run.classes(known, predict(known))
    *others, last = run.logits()
    found = None
    for logit in others:
        with suppress(InvalidArgument):
            found = attribute(run.first(logit))
    found = found or attribute(run.first(last))
    if known is None:
        run.classes(found.target.tensor, predict(found.target.tensor))
    run.settle(found)

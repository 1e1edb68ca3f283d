"""How much the units of a layer matter to each class: a record per image and per class. Needs numpy only.

    importance = Importance.load("importance.npz")
    importance.mean[importance.row(7)]  # of class 7, one number for each unit

The importance of unit k for class c at an image is alpha[k], the sum over the unit's positions of the gradient of the
class's logit by the layer (Selvaraju et al., Choose Your Neuron, arXiv 1808.02861). An image counts for its own class.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.values import Array

__all__ = ["Importance", "labels_of"]

ARRAYS = ("alpha", "labels", "classes", "mean", "count", "std")
TEXTS = ("layer", "target", "digest")
LISTS = ("names", "warnings")


@dataclass(frozen=True, eq=False)
class Importance:
    """The importance of the K units of a layer for the C classes of N labelled images. Its fields are the keys of the
    npz file that `save` writes.

    `alpha` is `[N, K]`, the importance for the class of each image, and `labels` `[N]` these classes, as indices of the
    output. `classes` `[C]` are those of which there are images, rising; `count` `[C]` says how many, `mean` `[C, K]` is
    the mean of alpha over them, `std` `[C, K]` its standard deviation (divided by the count: 0 for one image). `names`
    has the names of the classes, if they are known. `layer` is the tensor, `target` the tensor of logits, `digest` that
    of the model file.
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

    @classmethod
    def of(
        cls,
        layer: str,
        alpha: Array,
        labels: NDArray[np.integer],
        *,
        target: str = "",
        digest: str = "",
        class_names: Sequence[str] = (),
        warnings: Sequence[str] = (),
    ) -> Self:
        """The record of alphas and labels; `class_names` are those of all indices of the output."""
        classes, places = np.unique(labels.astype(np.int64), return_inverse=True)
        shape = len(classes), alpha.shape[1]
        count = np.bincount(places, minlength=len(classes)).astype(np.int64)
        mean, std = np.empty(shape), np.empty(shape)
        for row in range(len(classes)):
            own = alpha[places == row].astype(np.float64)
            mean[row], std[row] = own.mean(axis=0), own.std(axis=0)
        named = [class_names[k] if k < len(class_names) else str(k) for k in classes] if class_names else []
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

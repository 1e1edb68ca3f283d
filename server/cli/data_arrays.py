"""Samples as arrays, one of each input for all of them: those of an npz, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnx_attribution.client.audit.data import Dataset, Item, joined
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.server.cli.files import typed
from onnx_attribution.server.cli.masks import MASKS, truths
from onnx_attribution.server.cli.samples import taken
from onnx_attribution.values import Array, BatchMode, ModelInfo, TensorInfo

LABELS = ("label", "labels", "y", "target", "targets", "class")
"""What arrays and columns of labels are called, where no input is called so."""


def alone(array: Array, info: TensorInfo, batch: BatchMode | None) -> Array:
    return joined(info.name, [typed(array, info)], info, batch)


def label_of(text: object) -> int | str | None:
    if text is None or text == "":
        return None
    if isinstance(text, int | np.integer):
        return int(text)
    if isinstance(text, float | np.floating):
        return int(text) if float(text).is_integer() else None
    words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return int(words) if words.removeprefix("-").isdecimal() else words


def read_npz(place: Path, info: ModelInfo) -> Dataset:
    arrays, labels, masks = arrays_of(place, info)
    found = samples_of(place.name, arrays, labels, info)
    if masks is None:
        return found
    if not masks.ndim or len(masks) != len(found):
        raise InvalidArgument(
            f"{place.name!r} holds {len(found)} samples, and masks of shape {list(masks.shape)}"
        )
    known = truths(masks, f"{place.name}:masks")
    return replace(found, items=[replace(one, mask=known[k]) for k, one in enumerate(found.items)])


def arrays_of(place: Path, info: ModelInfo) -> tuple[dict[str, Array], Any, Any]:
    """Arrays by the names of the inputs; `x` or any other name where there is one input and one array that fits. And
    the labels and the masks, if there are some."""
    try:
        with place.open("rb") as file:  # np.load leaves a broken one open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise InvalidArgument(
                    f"{str(place)!r} holds one array, as .npy files do; name it .npy", file=place
                )
            keys, label, mask = keys_of(place, loaded, info)
            labels = None if label is None else loaded[label]
            masks = None if mask is None else loaded[mask]
            arrays = {name: loaded[key] for name, key in keys.items()}
    except AttributionError:
        raise
    except Exception as error:  # zipfile, zlib and numpy fail in many ways on a broken file
        raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error
    return arrays, labels, masks


class Ranked(Protocol):
    """What is known of an array before it is read."""

    @property
    def ndim(self) -> int: ...


def keys_of(
    place: Path, arrays: Mapping[str, Ranked], info: ModelInfo
) -> tuple[dict[str, str], str | None, str | None]:
    """What the arrays of a file are for: their keys by input, that of the labels and that of the masks.

    Raises:
        InvalidArgument: none is for an input.
    """
    names = names_of(info)
    label = next((key for key in LABELS if key in arrays and key not in names), None)
    mask = next((key for key in MASKS if key in arrays and key not in names), None)
    keys = {key: key for key in arrays if key in names}
    return keys or {names[0]: _only_array(place, arrays, info)}, label, mask


def names_of(info: ModelInfo) -> list[str]:
    return [one.name for one in info.inputs]


def _only_array(place: Path, arrays: Mapping[str, Ranked], info: ModelInfo) -> str:
    """The key of the samples in a file that names no input."""
    keys, fitting = list(arrays), []
    if len(info.inputs) == 1:
        (one,) = info.inputs
        rank = len(one.shape or ())
        fitting = [
            key for key in keys if arrays[key].ndim in (rank, rank + 1) and key not in (*LABELS, *MASKS)
        ]
        fitting = [key for key in fitting if arrays[key].ndim == rank] or fitting
    if len(fitting) != 1:
        raise InvalidArgument(
            f"{place.name!r} has the arrays {', '.join(keys)}; name them as the inputs: "
            f"{', '.join(map(repr, names_of(info)))}, and labels 'labels'",
            file=place,
        )
    return fitting[0]


def samples_of(
    name: str,
    arrays: Mapping[str, Array],
    labels: Any,
    info: ModelInfo,
    ids: Sequence[str] = (),
    features: Mapping[str, Sequence[str]] | None = None,
    first: int = 0,
) -> Dataset:
    whole, count = whole_of(name, arrays, info)
    known = {one.name: one for one in info.inputs}
    axes = {key: known[key].sample_axis(array.shape, info.batch) for key, array in whole.items()}
    if labels is not None:
        labels = one_each(name, labels, count)

    def items() -> Iterator[Item]:
        for k in range(count):
            one = taken(whole, known, info.batch, slice(k, k + 1)) if count > 1 or _any(axes) else whole
            label = None if labels is None else label_of(labels[k])
            yield Item(ids[k] if ids else str(first + k), one, label)

    return Dataset(name, list(items()), features or {})


def whole_of(name: str, arrays: Mapping[str, Array], info: ModelInfo) -> tuple[dict[str, Array], int]:
    """The arrays in the types of the inputs, and how many samples they hold."""
    known = {one.name: one for one in info.inputs}
    if missing := [one for one in known if one not in arrays]:
        raise InvalidArgument(f"{name!r} has no array for input {missing[0]!r}")
    whole = {key: alone(array, known[key], info.batch) for key, array in arrays.items()}
    return whole, count_of(name, whole, info)


def count_of(name: str, whole: Mapping[str, Array], info: ModelInfo) -> int:
    """How many samples the inputs hold. Raises: InvalidArgument: they do not agree."""
    known = {one.name: one for one in info.inputs}
    axes = {key: known[key].sample_axis(array.shape, info.batch) for key, array in whole.items()}
    sizes = {key: whole[key].shape[axis] for key, axis in axes.items() if axis is not None}
    counts = set(sizes.values())
    if len(counts) > 1:
        listed = ", ".join(f"{size} of {key!r} along axis {axes[key]}" for key, size in sizes.items())
        raise InvalidArgument(f"the arrays of {name!r} hold different numbers of samples: {listed}")
    return counts.pop() if counts else 1


def one_each(name: str, labels: Any, count: int) -> list[object]:
    """Labels as Python has them. Raises: InvalidArgument: they are not one for each sample, such as one-hot rows."""
    found = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.shape[1] == 1:
        found = [one for (one,) in found]
    if not isinstance(found, list) or any(isinstance(one, list | dict) for one in found):
        raise InvalidArgument(
            f"the labels of {name!r} are not one for each sample: give indices or names of classes; of one-hot rows, "
            "labels.argmax(axis=1)"
        )
    if len(found) != count:
        raise InvalidArgument(f"{name!r} holds {count} samples and {len(found)} labels")
    return found


def _any(axes: Mapping[str, int | None]) -> bool:
    return any(axis is not None for axis in axes.values())

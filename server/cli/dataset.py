"""The data set of `audit`: a folder of files, an npz or a parquet file, as samples with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnx_attribution.client.audit.data import Dataset, joined, same
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.server.cli.data_arrays import arrays_of, label_of, one_each, read_npz, whole_of
from onnx_attribution.server.cli.data_folder import read_folder
from onnx_attribution.server.cli.data_parquet import PARQUET, read_parquet
from onnx_attribution.server.cli.files import typed
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.samples import taken
from onnx_attribution.values import Array, ModelInfo


def read_dataset(place: Path, info: ModelInfo, picture: Picture, rows: slice | None) -> Dataset:
    """The samples of a folder, an npz or a parquet file, or the chosen ones of them.

    Raises:
        InvalidArgument: there is nothing of the kind, or an input that it has no array for.
    """
    is_part = rows is not None
    if not place.exists():
        raise InvalidArgument(f"--data {str(place)!r}: there is no such file", file=place)
    if place.is_dir():
        found = read_folder(place, info, picture)
    elif place.suffix.lower() == ".npz":
        found = read_npz(place, info)
    elif place.suffix.lower() in PARQUET:
        found, rows = read_parquet(place, info, rows), None
    else:
        raise InvalidArgument(f"--data {str(place)!r} is no folder, .npz or .parquet file", file=place)
    items = list(found.items if rows is None else found.items[rows])
    if not items:
        raise InvalidArgument(f"--data {str(place)!r} holds no samples{' in these rows' * is_part}")
    return Dataset(found.name, items, found.features)


def read_labelled(
    place: Path, info: ModelInfo, picture: Picture, rows: slice | None
) -> tuple[dict[str, Array], Labels]:
    """The samples of a folder, an npz, a parquet file or an npy as one array for each input, and their labels, if they
    have some: one for each, or one-hot rows. An npy stays on the disk until its rows are read.

    Raises:
        InvalidArgument: as `read_dataset`, or a sample that has another shape than the first.
    """
    known = {one.name: one for one in info.inputs}
    if place.suffix.lower() == ".npy" and len(known) == 1:
        (only,) = info.inputs
        try:
            whole = np.load(place, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy fails in many ways on a broken file
            raise InvalidArgument(f"{str(place)!r} cannot be read: {error}", file=place) from error
        kind = only.dtype if only.dtype != "bfloat16" else "float32"
        arrays = {only.name: whole if whole.dtype.name == kind else typed(np.asarray(whole), only)}
        return taken(arrays, known, info.batch, rows), None
    if place.suffix.lower() == ".npz" and place.is_file():
        arrays, labels, _ = arrays_of(place, info)
        arrays, count = whole_of(place.name, arrays, info)
        told: Labels = None
        if labels is not None and labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
            told = labels
        elif labels is not None:
            told = [label_of(one) for one in one_each(place.name, labels, count)]
        return taken(arrays, known, info.batch, rows), told if rows is None or told is None else told[rows]
    found = read_dataset(place, info, picture, rows)
    parts = {name: [item.inputs[name] for item in found.items] for name in found.items[0].inputs}
    arrays = {
        name: _shared(name, given, found)
        if known[name].batch_axis is None and info.batch != "single"
        else joined(name, given, known[name], info.batch)
        for name, given in parts.items()
    }
    own = [item.label for item in found.items]
    return arrays, None if all(one is None for one in own) else own


Labels = list[int | str | None] | Array | None


def _shared(name: str, given: Sequence[Array], found: Dataset) -> Array:
    """The array of an input that all samples share. Raises: InvalidArgument: a sample has another one."""
    for item, array in zip(found.items, given, strict=True):
        if not same(given[0], array):
            raise InvalidArgument(
                f"all samples share input {name!r}, of which {item.id!r} has another array than {found.items[0].id!r}; "
                "choose those that agree by --rows; `batch` explains each with its own",
                reason=Reason.INPUT_INVALID,
            )
    return given[0]


def indices_of(labels: Sequence[int | str | None], classes: Sequence[str]) -> list[int]:
    """Labels as indices, of names those of the classes. Raises: InvalidArgument: a sample has none, or no class's."""
    found = []
    for k, label in enumerate(labels):
        if label is None:
            raise InvalidArgument(f"sample {k} has no label; --labels gives one for each")
        if isinstance(label, str):
            if label not in classes:
                known = f"the classes are {', '.join(classes[:10])}{', ...' * (len(classes) > 10)}"
                raise InvalidArgument(
                    f"the label {label!r} of sample {k} is no class; "
                    + (known if classes else "the model does not name its classes: give their indices"),
                    reason=Reason.TARGET_INVALID,
                )
            label = list(classes).index(label)
        found.append(label)
    return found

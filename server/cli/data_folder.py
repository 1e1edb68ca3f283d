"""A data set that is a folder: a sample for each file, with its label."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnx_attribution.client.audit.data import Dataset, Item
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.data_arrays import LABELS, alone, label_of
from onnx_attribution.server.cli.files import read_file
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.pixels import SUFFIXES
from onnx_attribution.values import Array, ModelInfo

KINDS = (".npy", ".npz", *SUFFIXES)


def read_folder(place: Path, info: ModelInfo, picture: Picture) -> Dataset:
    """A sample for each file; labels of the csv beside them, or the names of the folders they lie in."""
    found = labelled(place, names_in(place, KINDS))
    return Dataset(
        place.name, [Item(name, read_sample(place / name, info, picture), label) for name, label in found]
    )


def names_in(place: Path, kinds: tuple[str, ...]) -> list[str]:
    """The files of some kinds in a folder and those inside it, by their names there."""
    files = sorted(one for one in place.rglob("*") if one.suffix.lower() in kinds and one.is_file())
    return [file.relative_to(place).as_posix() for file in files]


def labelled(place: Path, names: Iterable[str]) -> Iterator[tuple[str, int | str | None]]:
    """The files that are samples, each with its label. Raises: InvalidArgument: labels that cannot be read."""
    tables = sorted(place.glob("*.csv"))
    if len(tables) > 1:
        raise InvalidArgument(f"{str(place)!r} has several csv files; one says the labels: file,label")
    labels = read_labels(tables[0]) if tables else {}
    for name in names:
        file = place / name
        if labels and not {name, file.name, file.stem} & labels.keys():
            continue
        own = next((labels[one] for one in (name, file.name, file.stem) if one in labels), None)
        if not labels and file.parent != place:
            own = file.parent.name
        yield name, label_of(own)


def read_labels(file: Path) -> dict[str, str]:
    """Label by file, of `file,label`, with or without a line of titles."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            lines = [line for line in csv.reader(opened) if len(line) > 1]
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidArgument(f"{str(file)!r} cannot be read: {error}", file=file) from error
    if lines and lines[0][1].strip().lower() in LABELS:
        lines = lines[1:]
    return {line[0].strip(): line[1].strip() for line in lines}


def read_sample(file: Path, info: ModelInfo, picture: Picture) -> dict[str, Array]:
    """The inputs of one file: those of its names in an npz, else the only input's."""
    if file.suffix.lower() == ".npz" and len(info.inputs) > 1:
        return {
            one.name: alone(read_file(f"{file}:{one.name}", one, picture), one, info.batch)
            for one in info.inputs
        }
    if len(info.inputs) != 1:
        listed = ", ".join(repr(one.name) for one in info.inputs)
        raise InvalidArgument(
            f"{file.name!r}: the model has {len(info.inputs)} inputs ({listed}); a sample is an npz of all of them",
            file=file,
        )
    (one,) = info.inputs
    return {one.name: alone(read_file(str(file), one, picture), one, info.batch)}

"""Trained models with real inputs, of the folder of test data and of a package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_attribution.errors import AttributionError
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Array, AttributionRequest, Target

UNLIKE = {"tree", "svm", "knn"}
NUDENET = ("nudenet", "3.4.2", "MIT")
FIRST_CLASS = 4  # of NudeNet's rows; those before are the box


@dataclass(frozen=True)
class Trained:
    """A file and its real inputs, which hold several samples."""

    name: str
    file: Path
    inputs: Mapping[str, Array]

    def sample(self, k: int) -> dict[str, Array]:
        return {name: array[k : k + 1] if array.ndim else array for name, array in self.inputs.items()}

    def __len__(self) -> int:
        return max(len(array) for array in self.inputs.values() if array.ndim)


def with_examples(models: Path) -> Iterator[Trained]:
    """The trained files that lie beside arrays of examples, but for those that have no derivative."""
    for entry in json.loads((models / "INDEX.json").read_text()):
        there = [f for f in entry.get("sample_files", ()) if f.startswith("examples") and f.endswith(".npz")]
        if entry["trained"] != "trained" or not there or UNLIKE & set(entry["name"].split("-")):
            continue
        examples = np.load(models / entry["name"] / there[0])["x"]
        first, *others = entry["inputs"]
        inputs: dict[str, Array] = {first["name"]: examples}
        for other in others:  # numbers that all samples share, such as a threshold
            inputs[other["name"]] = np.zeros(other["shape"], np.float32)
        yield Trained(entry["name"], models / entry["file"], inputs)


def nudenet(picture: Path | None) -> Trained:
    """NudeNet 320n as its package ships it, brought to `.wild` once, and a photograph or drawn digits.

    Raises:
        RuntimeError, LookupError: it cannot be had.
    """
    from tests.wild import download, inputs
    from tests.wild.models import Package

    file = download.file_of(download.models_of(Package(*NUDENET)), "320n.onnx")
    x = inputs.picture(320, 320, mean=0.0, scale=1.0) if picture is None else photograph(picture, 320)
    return Trained("NudeNet 320n", file, {"images": x})


def photograph(path: Path, size: int) -> Array:
    """A picture as `[1, 3, size, size]` from 0 to 1."""
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB").resize((size, size)), np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def target_of(engine: Engine, name: str, inputs: Mapping[str, Array], from_row: int = 0) -> Target:
    """What is asked for where nothing is said; where that is refused, the largest element of the first output, whose
    rows before `from_row` do not count."""
    try:
        engine.attribute(AttributionRequest(name, inputs, "gradient"))
        return Target()
    except AttributionError:
        tensor, values = next(iter(engine.predict(name, inputs).items()))
        sample = np.asarray(values, np.float64)[0][from_row:]
        place: tuple[Any, ...] = np.unravel_index(int(sample.argmax()), sample.shape)
        return Target(tensor, (int(place[0]) + from_row, *map(int, place[1:])))

"""Files that several tests of the command line explain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server.cli.commands import model

ROOT = Path(__file__).parents[2]
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture
def image(tmp_path: Path, digits_data: Data) -> Path:
    path = tmp_path / "image.npy"
    np.save(path, digits_data[0][:2])
    return path


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """Returns a model without a derivative."""
    return model(tmp_path, "sign (float[N,3] x) => (float[N,3] y) { y = Sign(x) }")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Returns a model with two inputs and two outputs."""
    text = "two (float[N,3] a, float[N,3] b) => (float[N,3] sum, float[N,3] difference)"
    return model(tmp_path, text + " { sum = Add(a, b) difference = Sub(a, b) }")


@pytest.fixture
def pixels(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns a colour picture, [4, 6, 3]."""
    return rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)

"""What several tests need: data, models, a source of randomness."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

DIGITS = Path(__file__).parent / "data" / "digits"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Returns the folder of model files and expected numbers that are too large to commit."""
    name = os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")
    if not name:
        pytest.skip("ONNX_ATTRIBUTION_TEST_DATA is not set: no folder of models and expected numbers")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"ONNX_ATTRIBUTION_TEST_DATA names no folder: {name}")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Returns a fresh generator, the same in every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def digits_path() -> Path:
    """Returns the digits model with a dynamic batch `N`."""
    return DIGITS / "digits.onnx"


@pytest.fixture(scope="session")
def digits_fixed_path() -> Path:
    """Returns the same network with a batch of 1 baked in."""
    return DIGITS / "digits_fixed.onnx"


@pytest.fixture(scope="session")
def digits_data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns the held-out digits: images `[k, 1, 8, 8]` in 0..1 and labels `[k]`."""
    with np.load(DIGITS / "digits.npz") as data:
        return data["images"], data["labels"]

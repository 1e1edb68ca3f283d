"""Engines and requests that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import (
    AttributionRequest,
    Target,
)

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def engine(digits_path: Path, digits_fixed_path: Path) -> Iterator[Engine]:
    """Returns an engine with both exports of the digits model."""
    with Engine(provider="cpu", threads=1) as made:
        made.add("digits", digits_path)
        made.add("fixed", digits_fixed_path)
        yield made


@pytest.fixture
def request_(digits_data: Data) -> AttributionRequest:
    """Returns a question about three digits."""
    return AttributionRequest(
        "digits", {"image": digits_data[0][:3]}, "neuron_ig", target=Target(index=[1, 2, 3]), steps=8
    )

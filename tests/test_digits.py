"""The committed digits model is what its script says: small, accurate, the same in both exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


def logits(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (values,) = session.run(["logits"], {"image": images})
    return np.asarray(values, np.float32)


def test_held_out_accuracy_is_over_97_percent(digits_path: Path, digits_data: Data) -> None:
    images, labels = digits_data
    assert images.shape == (360, 1, 8, 8)
    accuracy = (logits(digits_path, images).argmax(axis=1) == labels).mean()
    assert accuracy > 0.97


def test_both_exports_give_the_same_logits(
    digits_path: Path, digits_fixed_path: Path, digits_data: Data
) -> None:
    images = digits_data[0][:20]
    one_by_one = np.concatenate([logits(digits_fixed_path, image[None]) for image in images])
    np.testing.assert_allclose(one_by_one, logits(digits_path, images), rtol=1e-4, atol=1e-5)


def test_fixed_export_refuses_a_batch(digits_fixed_path: Path, digits_data: Data) -> None:
    with pytest.raises(Exception, match="invalid dimensions"):
        logits(digits_fixed_path, digits_data[0][:2])


@pytest.mark.parametrize("name", ["digits.onnx", "digits_fixed.onnx", "digits.npz"])
def test_files_are_under_200_kb(digits_path: Path, name: str) -> None:
    assert digits_path.with_name(name).stat().st_size < 200_000

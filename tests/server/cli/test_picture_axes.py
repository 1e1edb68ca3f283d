"""Where the pixels of a picture go in an input: around the batch axis that is proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.files import read_file
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.values import TensorInfo


@pytest.mark.parametrize(
    ("shape", "batch", "transposed"),
    [
        (("N", 3, 4, 6), 0, (None, 2, 0, 1)),
        (("N", 4, 6, 3), 0, (None, 0, 1, 2)),
        ((3, 4, 6), None, (2, 0, 1)),
        ((4, 6, 3), None, (0, 1, 2)),
        ((3, 4, 6, "N"), 3, (2, 0, 1, None)),
        ((4, "N", 6, 3), 1, (0, None, 1, 2)),
        ((1, 3, 4, 6), None, (None, 2, 0, 1)),
    ],
)
def test_pixels_go_where_the_proven_batch_leaves_room(
    shape: tuple[int | str, ...],
    batch: int | None,
    transposed: tuple[int | None, ...],
    pixels: NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    found = read_file(str(tmp_path / "p.png"), TensorInfo("x", "float32", shape, batch), Picture())
    want = (pixels / 255).transpose([axis for axis in transposed if axis is not None])
    if None in transposed:
        want = np.expand_dims(want, transposed.index(None))
    np.testing.assert_allclose(found.astype(np.float64), want, atol=1e-6)


@pytest.mark.parametrize(("shape", "batch"), [(("N", 4, 6), 0), ((1, 4, 6), None), ((4, 6), None)])
def test_planes_without_channels_are_grey(
    shape: tuple[int | str, ...], batch: int | None, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(pixels[..., 0]).save(tmp_path / "p.png")
    found = read_file(str(tmp_path / "p.png"), TensorInfo("x", "float32", shape, batch), Picture())
    assert found.ndim == len(shape)
    np.testing.assert_allclose(found.reshape(4, 6).astype(np.float64), pixels[..., 0] / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "batch", "said"),
    [
        (("N", 7, 4, 6), 0, "7 channels"),
        (("N", 24), 0, r"\[N, 24\]"),
        ((), None, r"\[\]"),
        ((2, 3, 4, 6), None, "--batch-axis x=0"),
        (("N", 1, 3, 4, 6), 0, "a picture fills"),
    ],
)
def test_inputs_that_no_picture_fills_are_named(
    shape: tuple[int | str, ...], batch: int | None, said: str, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    with pytest.raises(InvalidArgument, match=f"'x' takes.*{said}|{said}.*'x'"):
        read_file(str(tmp_path / "p.png"), TensorInfo("x", "float32", shape, batch), Picture())


@pytest.mark.parametrize("name", ["p.png", "p.gif", "p.tif", "p.bmp", "p.webp", "p.jpg"])
def test_cut_off_files_are_refused_by_name(name: str, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(np.tile(pixels, (20, 20, 1))).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    info = TensorInfo("x", "float32", ("N", 3, 80, 120), 0)
    for length in (0, 5, 20, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(InvalidArgument, match=name):
            read_file(str(tmp_path / name), info, Picture())

"""Pictures of every mode and depth become the pixels that they show, or are refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.files import read_file
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.values import TensorInfo
from tests.server.cli.commands import explained, model, run

Data = tuple[NDArray[np.float32], NDArray[np.int64]]
GREY = TensorInfo("x", "float32", ("N", 1, 4, 6), 0)
COLOUR = TensorInfo("x", "float32", ("N", 3, 4, 6), 0)
ALPHA = TensorInfo("x", "float32", ("N", 4, 4, 6), 0)


def test_a_picture_is_scaled_like_the_array_it_was_made_of(
    digits_path: Path, digits_data: Data, tmp_path: Path
) -> None:
    pixels = np.rint(digits_data[0][0, 0] * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    np.save(tmp_path / "digit.npy", (pixels / 255).astype(np.float32))
    np.save(tmp_path / "digit4.npy", (pixels / 255).astype(np.float32)[None, None])
    want = explained(digits_path, "--input", tmp_path / "digit4.npy", "--method", "gradient")["target"][
        "value"
    ]
    for options in (
        (),
        ("--scale", "1/255"),
        ("--layout", "nchw"),
        ("--scale", "1", "--std", "255", "--mean", "0"),
    ):
        found = explained(digits_path, "--input", tmp_path / "digit.png", "--method", "gradient", *options)
        np.testing.assert_allclose(found["target"]["value"], want, rtol=1e-5)
    shifted = explained(
        digits_path,
        "--input",
        tmp_path / "digit.png",
        "--method",
        "gradient",
        "--mean",
        "0.5",
        "--std",
        "0.5",
    )
    assert shifted["target"]["value"] != pytest.approx(want)


def test_channels_of_a_picture_lie_where_the_model_has_them(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    weights = "<int64[3] k = {1, 2, 3}>"
    for shape, layout in (("N,3,4,5", "nchw"), ("N,4,5,3", "nhwc")):
        path = model(
            tmp_path,
            f"m (float[{shape}] x) => (float[N] y) {weights} {{ s = Mul(x, x) y = ReduceSum<keepdims=0>(s, k) }}",
        )
        found = explained(path, "--input", tmp_path / "p.png", "--method", "gradient")
        expected = float(((picture / 255.0) ** 2).sum())
        assert found["target"]["value"] == pytest.approx([expected], rel=1e-5)
        assert explained(path, "--input", tmp_path / "p.png", "--layout", layout, "--method", "gradient")


def test_a_picture_of_another_size_is_refused_unless_it_is_to_be_resized(
    digits_path: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 10), "white").save(tmp_path / "p.jpg")
    result = run("explain", digits_path, "--input", tmp_path / "p.jpg")
    assert result.exit_code == 2
    assert "10 x 20" in result.stderr
    assert "[N, 1, 8, 8]" in result.stderr
    found = explained(digits_path, "--input", tmp_path / "p.jpg", "--resize", "--method", "gradient")
    assert found["layers"]["image"]["shape"] == [1, 1, 8, 8]


# --- what a file shows


def read(path: Path, info: TensorInfo = GREY, **options: Any) -> NDArray[np.float64]:
    """Returns the picture without the batch, channels last."""
    found = np.asarray(read_file(str(path), info, Picture(**options)), np.float64)
    assert len(found) == 1
    return np.moveaxis(found[0], 0, -1)


def luma(colour: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the grey of ITU-R 601 in 0..1, [H, W, 1]."""
    return (colour.astype(np.float64) @ [0.299, 0.587, 0.114] / 255)[..., None]


ROUNDING = 0.51 / 255  # of pillow, where a colour becomes a grey of 8 bits


@pytest.mark.parametrize("name", ["p.png", "p.bmp", "p.tif", "p.tiff", "p.ppm", "p.tga", "P.PNG"])
def test_exact_formats_give_every_pixel(name: str, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    np.testing.assert_allclose(read(tmp_path / name, COLOUR), pixels / 255, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path / name, GREY), luma(pixels), atol=ROUNDING)
    with_alpha = read(tmp_path / name, ALPHA)
    np.testing.assert_allclose(with_alpha[..., :3], pixels / 255, atol=1e-6)
    assert (with_alpha[..., 3] == 1).all()


@pytest.mark.parametrize(("name", "options"), [("p.webp", {"lossless": True}), ("p.gif", {})])
def test_webp_and_gif_are_read(
    name: str, options: dict[str, Any], pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(pixels).save(tmp_path / name, **options)  # 24 colours fit into a palette
    np.testing.assert_allclose(read(tmp_path / name, COLOUR), pixels / 255, atol=1e-6)


def test_the_content_decides_and_not_the_name(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.bmp")
    (tmp_path / "p.bmp").rename(tmp_path / "p.png")
    np.testing.assert_allclose(read(tmp_path / "p.png", COLOUR), pixels / 255, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"])
def test_every_mode_becomes_its_colours(mode: str, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    if mode in ("1", "L", "LA"):
        grey = pixels[..., 0] if mode != "1" else (pixels[..., 0] > 127) * np.uint8(255)
        want = np.repeat(grey[..., None], 3, axis=2)
        Image.fromarray(grey).convert(mode).save(tmp_path / "p.tif")
    elif mode == "LAB":
        lab = np.zeros((4, 6, 3), np.uint8)
        lab[..., 0] = pixels[..., 0]  # greys: no colour but lightness
        Image.frombytes("LAB", (6, 4), lab.tobytes()).save(tmp_path / "p.tif")
        lightness = pixels[..., 0] / 255 * 100
        linear = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness * 27 / 24389)
        companded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
        want = np.repeat((companded * 255)[..., None], 3, axis=2)
    else:
        image = Image.fromarray(pixels)
        image = image.convert("P") if mode in ("P", "PA") else image
        if mode == "YCbCr" and int(PIL.__version__.partition(".")[0]) < 13:
            pytest.skip("pillow 12 calls the TIFF that it writes of this mode truncated")
        image.convert(mode).save(tmp_path / "p.tif")
        want = np.asarray(image.convert("RGB"))
    found = read(tmp_path / "p.tif", COLOUR)
    # pillow's tables for YCbCr and Lab are of whole numbers
    np.testing.assert_allclose(found, want / 255, atol=3 / 255 if mode in ("YCbCr", "LAB") else 1e-6)
    assert read(tmp_path / "p.tif", GREY).shape == (4, 6, 1)


@pytest.mark.parametrize("name", ["p.png", "p.tif", "p.pgm"])
def test_white_of_16_bits_is_white_and_no_bit_is_lost(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    deep = rng.integers(0, 65536, (4, 6)).astype(np.uint16)
    deep[0, :2] = 0, 65535
    Image.fromarray(deep).save(tmp_path / name)
    want = deep[..., None] / 65535
    np.testing.assert_allclose(read(tmp_path / name), want, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path / name, COLOUR), np.repeat(want, 3, axis=2), atol=1e-6)
    assert (read(tmp_path / name, ALPHA)[..., 3] == 1).all()
    np.testing.assert_allclose(read(tmp_path / name, scale=1.0), want * 255, rtol=1e-5, atol=1e-5)


def test_big_endian_inverted_and_12_bit_tiffs_show_what_they_show(tmp_path: Path) -> None:
    values = [0, 1, 1000, 2048, 4000, 4095]
    for order, photometric, bits in ((b"MM", 1, 16), (b"II", 0, 16), (b"II", 1, 12)):
        (tmp_path / "p.tif").write_bytes(tiff([values] * 4, order, photometric, bits))
        want = np.array(values) / ((1 << bits) - 1)
        want = 1 - want if photometric == 0 else want
        np.testing.assert_allclose(read(tmp_path / "p.tif")[..., 0], [want] * 4, atol=1e-6)


def tiff(rows: list[list[int]], order: bytes, photometric: int, bits: int) -> bytes:
    """Returns a grey TIFF of one strip."""
    endian: Literal["big", "little"] = "big" if order == b"MM" else "little"
    if bits == 12:
        packed = "".join(f"{value:012b}" for row in rows for value in row)
        data = int(packed, 2).to_bytes(len(packed) // 8, "big")
    else:
        data = b"".join(value.to_bytes(2, endian) for row in rows for value in row)
    entries = {256: len(rows[0]), 257: len(rows), 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    entries |= {278: len(rows), 279: len(data)}
    head = order + (42).to_bytes(2, endian) + (8 + len(data)).to_bytes(4, endian)
    directory = len(entries).to_bytes(2, endian)
    for tag, value in sorted(entries.items()):
        directory += tag.to_bytes(2, endian) + (3).to_bytes(2, endian) + (1).to_bytes(4, endian)
        directory += value.to_bytes(2, endian) + bytes(2)
    return head + data + directory + bytes(4)


def test_numbers_without_a_white_need_a_scale(tmp_path: Path) -> None:
    values = np.linspace(-2, 3, 24, dtype=np.float32).reshape(4, 6)
    Image.fromarray(values).save(tmp_path / "f.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "i.tif")
    for name, want in (("f.tif", values), ("i.tif", values.astype(np.int32))):
        with pytest.raises(InvalidArgument, match=f"{name}.*--scale 1"):
            read(tmp_path / name)
        np.testing.assert_allclose(read(tmp_path / name, scale=0.5)[..., 0], want * 0.5, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["p.png", "p.webp", "p.tif", "p.jpg"])
def test_pictures_are_turned_as_their_exif_says(name: str, orientation: int, tmp_path: Path) -> None:
    stored = np.zeros((4, 6) if orientation < 5 else (6, 4), np.uint8)
    stored[: stored.shape[0] // 2, : stored.shape[1] // 2] = 255  # the corner at the first row and column
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(np.repeat(stored[..., None], 3, axis=2)).save(
        tmp_path / name, exif=exif, quality=100, lossless=True
    )
    found = read(tmp_path / name)[..., 0]
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    for corner in ((0, 0), (0, -1), (-1, -1), (-1, 0)):
        assert (found[corner] > 0.5) == (corner == corners[orientation]), corner


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["p.png", "p.tif"])
def test_grey_pictures_are_turned_whole(
    name: str, kind: type[np.generic], rng: np.random.Generator, tmp_path: Path
) -> None:
    white = np.iinfo(kind).max  # type: ignore[type-var]
    stored = rng.integers(0, white, (6, 4)).astype(kind)
    exif = Image.Exif()
    exif[0x112] = 6  # the first row is the right side
    Image.fromarray(stored).save(tmp_path / name, exif=exif)
    want = np.rot90(stored, -1).astype(np.float64) / white
    np.testing.assert_allclose(read(tmp_path / name)[..., 0], want, atol=1e-6)


def test_a_turned_picture_has_the_size_that_it_shows(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (4, 6)).save(tmp_path / "p.jpg", exif=exif)
    assert read(tmp_path / "p.jpg").shape == (4, 6, 1)


# --- transparency, frames, types


@pytest.mark.parametrize(
    ("mode", "name"),
    [("P", "p.png"), *((mode, name) for mode in ("RGBA", "LA") for name in ("p.png", "p.webp", "p.tif"))],
)
def test_transparent_pixels_show_the_background_that_is_said(
    mode: str, name: str, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    alpha = np.zeros((4, 6), np.uint8)
    alpha[:, :2], alpha[:, 2:4] = 255, 51
    image = Image.fromarray(np.dstack([pixels, alpha]))
    if mode == "LA":
        image = Image.merge("LA", (Image.fromarray(pixels[..., 0]), Image.fromarray(alpha)))
    if mode == "P":
        image = Image.fromarray(np.where(np.arange(6) < 2, 1, 0).astype(np.uint8)[None].repeat(4, 0), "L")
        image = image.convert("P")
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.save(tmp_path / name, transparency=0)
    else:
        image.save(tmp_path / name, lossless=True, exact=True)
    for info in (GREY, COLOUR):
        with pytest.raises(InvalidArgument, match=f"{name}.*transparent.*--background white"):
            read(tmp_path / name, info)
    for background, ground in (("white", [255, 255, 255]), ("#ff8000", [255, 128, 0])):
        found = read(tmp_path / name, COLOUR, background=background)
        if mode == "P":
            assert np.allclose(found[:, :2] * 255, [200, 100, 50], atol=0.01)
            assert np.allclose(found[:, 2:] * 255, ground, atol=0.01)
            continue
        colours = np.asarray(image.convert("RGB"), np.float64)
        share = alpha[..., None] / 255
        np.testing.assert_allclose(found * 255, share * colours + (1 - share) * ground, atol=1.01)
    with pytest.raises(InvalidArgument, match="--background 'nothing'"):
        read(tmp_path / name, COLOUR, background="nothing")


def test_an_input_of_four_channels_takes_the_alpha(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    both = np.dstack([pixels, pixels[..., 0]])
    Image.fromarray(both).save(tmp_path / "p.png")
    np.testing.assert_allclose(read(tmp_path / "p.png", ALPHA), both / 255, atol=1e-6)


def test_opaque_alpha_needs_no_background(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(np.dstack([pixels, np.full((4, 6), 255, np.uint8)])).save(tmp_path / "p.png")
    np.testing.assert_allclose(read(tmp_path / "p.png", COLOUR), pixels / 255, atol=1e-6)


@pytest.mark.parametrize("name", ["p.gif", "p.png", "p.tif", "p.webp"])
def test_the_first_frame_is_taken_and_said(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    picture = Picture()
    found = read_file(str(tmp_path / name), COLOUR, picture)
    np.testing.assert_allclose(found[0, :, 0, 0].astype(float), [1, 0, 0], atol=1e-6)
    assert picture.notes == [f"'{name}' has 3 frames; the first is taken"]


def test_colours_of_16_bits_are_read_with_8_and_said(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">18H", *[65535, 0, 32768] * 6)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(row * 4)), (b"IEND", b"")
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    picture = Picture()
    found = read_file(str(tmp_path / "p.png"), COLOUR, picture)
    np.testing.assert_allclose(found[0, :, 0, 0].astype(float), [1, 0, 0.5], atol=1 / 255)
    assert "16 bits" in picture.notes[0]


def test_notes_of_pictures_are_warnings_of_the_answer(digits_path: Path, tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (10, 200)]
    frames[0].save(tmp_path / "p.gif", save_all=True, append_images=frames[1:])
    found = explained(digits_path, "--input", tmp_path / "p.gif", "--method", "gradient")
    assert [warning for warning in found["warnings"] if "frames" in warning] == [
        "'p.gif' has 2 frames; the first is taken"
    ]


def test_integer_inputs_take_numbers_that_they_hold(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "p.png")
    deep = pixels[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    byte, wide = (TensorInfo("x", kind, ("N", 1, 4, 6), 0) for kind in ("uint8", "uint16"))
    assert (read(tmp_path / "deep.png", byte)[..., 0] == pixels[..., 0]).all()
    with pytest.raises(InvalidArgument, match="--scale 257"):
        read(tmp_path / "deep.png", wide)
    assert (read(tmp_path / "deep.png", wide, scale=257.0)[..., 0] == deep).all()
    with pytest.raises(InvalidArgument, match="takes uint8"):
        read(tmp_path / "p.png", byte, scale=2.0)
    with pytest.raises(InvalidArgument, match="takes string"):
        read(tmp_path / "p.png", TensorInfo("x", "string", ("N", 1, 4, 6), 0))


def test_grey_numbers_are_resized_too(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 5), 40000, np.uint16)).save(tmp_path / "p.png")
    np.testing.assert_allclose(
        read(tmp_path / "p.png", resize=True), np.full((4, 6, 1), 40000 / 65535), atol=1e-6
    )

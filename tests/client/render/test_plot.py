"""Pictures hold what was computed: symmetric colours, blocks of a layer's own size, the numbers underneath."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.render.plot import MAX_ROWS, draw, figure
from onnx_attribution.server.engine.answer.reduce import together
from onnx_attribution.values import Attribution, LayerAttribution, ResolvedTarget

pytest.importorskip("matplotlib")
Floats = NDArray[np.float64]


def answer(values: Floats, *, cut: bool = True, error: float = 0.25, steps: int = 64) -> Attribution:
    """Returns an attribution of one layer with these values `[samples, *unit]`."""
    count = len(values)
    sums = values.reshape(count, -1).sum(axis=1)
    residual, errors, none = (np.full(count, number) for number in (-0.125, error, np.nan))
    layer = LayerAttribution("conv", values, sums, residual, errors, cut, none)
    target = ResolvedTarget("logits", ("7",) * count, np.full(count, 11.5), np.full(count, 0.5))
    return Attribution("neuron_ig", "dynamic", (target,), {"conv": layer}, 66, steps, 0.1, "digest", "cpu")


def texts(picture: object) -> str:
    """Returns every text of a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in picture.findobj(Text))  # type: ignore[attr-defined]


def images(picture: object) -> list[object]:
    from matplotlib.image import AxesImage

    return list(picture.findobj(AxesImage))  # type: ignore[attr-defined]


def test_channels_are_summed_and_colours_are_symmetric_around_zero(rng: np.random.Generator) -> None:
    values = rng.normal(size=(1, 3, 4, 4))
    heat = images(figure(answer(values)))[0]
    np.testing.assert_allclose(heat.get_array(), values[0].sum(axis=0))  # type: ignore[attr-defined]
    low, high = heat.get_clim()  # type: ignore[attr-defined]
    assert low == -high == -np.abs(values[0].sum(axis=0)).max()


def test_several_targets_have_a_row_for_each_and_sample(rng: np.random.Generator) -> None:
    parts = [answer(rng.normal(size=(2, 3, 4, 4))) for _ in range(3)]
    picture = figure(together(parts))
    for heat, values in zip(
        images(picture), np.concatenate([one.layers["conv"].values for one in parts]), strict=True
    ):
        np.testing.assert_allclose(heat.get_array(), values.sum(axis=0))  # type: ignore[attr-defined]


def test_channels_last_are_summed_too(rng: np.random.Generator) -> None:
    values = rng.normal(size=(1, 4, 5, 3))
    heat = images(figure(answer(values), channels_last=True))[0]
    np.testing.assert_allclose(heat.get_array(), values[0].sum(axis=-1))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("unit", "image", "axis"),
    [
        ((4, 32, 32), (32, 32, 3), 0),
        ((32, 32, 4), (32, 32, 3), 2),
        ((16, 8, 8), (32, 32, 3), 0),
        ((8, 8, 16), (32, 32, 3), 2),
        ((8, 8, 8), (32, 32, 3), 0),  # could be either
        ((1, 1, 5), (32, 32, 3), 2),
        ((6, 16, 21), (32, 41, 3), 0),
        ((16, 21, 16), (32, 41, 3), 2),
        ((1, 8, 8, 16), (32, 32, 3), 3),
    ],
)
def test_channels_lie_where_the_sizes_of_the_layer_say(
    unit: tuple[int, ...], image: tuple[int, ...], axis: int, rng: np.random.Generator
) -> None:
    values = rng.normal(size=(1, *unit))
    drawn = images(figure(answer(values), images=rng.random((1, *image)), channels_last=True))
    expected = values[0].sum(axis=axis)
    np.testing.assert_allclose(drawn[1].get_array(), expected.reshape(expected.shape[-2:]))  # type: ignore[attr-defined]
    moved = np.moveaxis(rng.random((1, *image)), -1, 1)
    drawn = images(figure(answer(values), images=moved))
    np.testing.assert_allclose(drawn[1].get_array(), expected.reshape(expected.shape[-2:]))  # type: ignore[attr-defined]


def test_a_small_layer_covers_the_image_in_blocks_of_its_own_size(rng: np.random.Generator) -> None:
    drawn = images(figure(answer(rng.normal(size=(1, 3, 4, 4))), images=rng.random((1, 3, 8, 8))))
    assert len(drawn) == 4  # the image, the map, the grey image and the map over it
    over = drawn[-1]
    assert over.get_array().shape == (4, 4)  # type: ignore[attr-defined]
    assert tuple(over.get_extent()) == (-0.5, 7.5, 7.5, -0.5)  # type: ignore[attr-defined]
    assert over.get_interpolation() == "nearest"  # type: ignore[attr-defined]


def test_numbers_are_written_underneath() -> None:
    shown = texts(figure(answer(np.ones((1, 2, 3, 3))), baseline="0.5"))
    for part in (
        "logits[7]",
        "11.5",
        "baseline (0.5)",
        "sum 18",
        "residual −0.125",
        "L1 error 0.25",
        "64 steps",
    ):
        assert part in shown
    assert "bypass" not in shown


def test_a_layer_that_is_no_cut_says_so_and_no_error_is_invented() -> None:
    shown = texts(figure(answer(np.ones((1, 3)), cut=False, error=np.nan, steps=0)))
    assert "bypass" in shown
    assert "error" not in shown
    assert "steps" not in shown


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 7), (1, 900), (1, 6, 5), (1, 2, 3, 4, 4), (2, 1, 1, 1)])
def test_every_rank_is_drawn(shape: tuple[int, ...], tmp_path: Path, rng: np.random.Generator) -> None:
    draw(tmp_path / "out.png", answer(rng.normal(size=shape)), images=rng.random((shape[0], 1, 8, 8)))
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_zeros_and_nan_are_drawn(tmp_path: Path) -> None:
    for value in (0.0, np.nan):
        for shape in ((1, 2, 3, 3), (1, 5)):
            draw(tmp_path / "out.png", answer(np.full(shape, value)), images=np.full((1, 1, 3, 3), value))
            assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_more_maps_than_fit_are_counted() -> None:
    picture = figure(answer(np.ones((MAX_ROWS + 3, 4))))
    assert len(picture.subfigs) == MAX_ROWS
    assert f"{MAX_ROWS} of {MAX_ROWS + 3} maps" in texts(picture)


def test_several_answers_are_drawn_under_each_other() -> None:
    assert len(figure([answer(np.ones((1, 4))), answer(np.ones((2, 4)))]).subfigs) == 3


def test_no_text_overlaps_another(rng: np.random.Generator) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for shape in ((2, 3, 4, 4), (2, 64)):
        picture = figure(answer(rng.normal(size=shape)), images=rng.random((2, 1, 8, 8)))
        canvas: Any = FigureCanvasAgg(picture)
        canvas.draw()
        boxes = [
            (text.get_text(), text.get_window_extent(canvas.get_renderer()))
            for text in picture.findobj(Text)
            if isinstance(text, Text) and text.get_text() and text.get_visible()
        ]
        for k, (first, box) in enumerate(boxes):
            for second, other in boxes[:k]:
                assert first == second or not box.overlaps(other), (first, second)


def test_positions_of_a_few_tokens_are_labelled() -> None:
    values = np.zeros((1, 4, 8))
    values[0, 2] = 0.5
    picture = figure(answer(values), tokens={"words": np.array([["a", "good", "film", "!"]])})
    shown = texts(picture)
    for part in ("good", "film", "by position, summed over 8 units", "position in 'words'"):
        assert part in shown
    assert images(picture) == []
    assert heights(picture) == [4.0]


def test_the_strongest_of_many_positions_are_listed(rng: np.random.Generator) -> None:
    ids = rng.integers(0, 256, (1, 2048))
    ids[0, 1234] = ord("Q")
    values = np.zeros((1, 2048, 257))
    values[0, np.arange(2048), ids[0]] = rng.normal(size=2048)
    values[0, 1234, ord("Q")] = -50
    picture = figure(answer(values), tokens={"bytes": ids})
    assert "Q  at 1234" in texts(picture)
    assert "each bar is the extreme of 2" in texts(picture)


def test_a_sparse_map_is_not_empty(tmp_path: Path) -> None:
    """A picture without tokens, of which one of two thousand rows holds a number, shows it in colour."""
    from matplotlib.image import imread

    for place in (0, 777, 2047):
        values = np.zeros((1, 2048, 257))
        values[0, place, 100] = 1.0
        draw(tmp_path / "out.png", answer(values))
        left = imread(tmp_path / "out.png")[:, :800, :3]  # without the scale of the colours
        assert ((left[..., 0] - left[..., 2]) > 0.05).sum() >= 6, place


def test_a_few_numbers_that_are_far_larger_do_not_hide_the_others(rng: np.random.Generator) -> None:
    values = rng.normal(size=(1, 1, 30, 30))
    values[0, 0, 3, 3] = 1e6
    picture = figure(answer(values))
    low, high = images(picture)[0].get_clim()  # type: ignore[attr-defined]
    assert high == -low < 10
    assert "colours end at percentile 99, the largest is 1e+06" in texts(picture)


@pytest.mark.parametrize("shape", [(1,), (1, 3), (1, 3, 4), (1, 1, 3, 4)])
def test_zeros_and_missing_numbers_are_said_in_the_picture(shape: tuple[int, ...]) -> None:
    assert "all attributions are 0" in texts(figure(answer(np.zeros(shape))))
    assert "no finite numbers" in texts(figure(answer(np.full(shape, np.nan))))
    some = np.ones(shape)
    some.flat[0] = np.nan
    assert f"1 of {some[0].size} are not finite" in texts(figure(answer(some)))


def heights(picture: object) -> list[float]:
    """Returns the heights of the bars that are not 0."""
    from matplotlib.patches import Rectangle

    bars = picture.findobj(Rectangle)  # type: ignore[attr-defined]
    return [bar.get_height() for bar in bars if bar.get_width() == pytest.approx(0.85)]


def test_a_row_and_a_series_are_drawn_in_files_too(tmp_path: Path, rng: np.random.Generator) -> None:
    from onnx_attribution.client.render import Shown

    shown = Shown(rows={"conv": rng.random((1, 5))}, features={"conv": ["age", "sex"]})
    drawn = texts(figure(answer(rng.normal(size=(1, 5))), shown))
    assert "age = " in drawn
    assert "feature 4 = " in drawn
    lines = Shown(series={"conv": rng.random((1, 2, 50))})
    draw(tmp_path / "out.png", answer(rng.normal(size=(1, 2, 50))), shown=lines)
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"

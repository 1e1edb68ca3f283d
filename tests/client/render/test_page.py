"""The same scenes on a page: their numbers as pixels, bars, lines and tokens, and nothing of the data as markup."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.render import charts, colours, page
from onnx_attribution.client.render.charts import Curve, Stage
from onnx_attribution.client.render.inputs import kind_of, shown_of
from onnx_attribution.client.render.maps import Drawn, Tokens
from onnx_attribution.client.render.scene import (
    HeatPanel,
    LinePanel,
    RankPanel,
    Shown,
    TokensPanel,
    scene_of,
)
from onnx_attribution.supports import Box
from onnx_attribution.values import (
    Attribution,
    LayerAttribution,
    ModelInfo,
    Preprocessing,
    ResolvedTarget,
    TensorInfo,
)

images = pytest.importorskip("PIL.Image")
Floats = NDArray[np.float64]


def answer(values: Floats, layer: str = "x") -> Attribution:
    """Returns an attribution of one sample."""
    one, none = np.zeros(1), np.full(1, np.nan)
    found = LayerAttribution(
        layer, values[None], values.sum(keepdims=True).ravel()[:1], one, none, True, none
    )
    target = ResolvedTarget("y", ("0",), one + 1, one)
    return Attribution("gradient", "dynamic", (target,), {layer: found}, 1, 0, 0.1, "", "cpu")


def drawn(values: Floats, shown: Shown) -> Any:
    """Returns the scene of one sample."""
    made = answer(values)
    return scene_of(made, made.layers["x"], 0, shown)


def pixels(html: str) -> list[NDArray[np.uint8]]:
    """Returns the pictures of a page."""
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', html)
    return [np.asarray(images.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in found]


def test_a_small_map_has_one_pixel_for_each_number_in_the_colours_of_files() -> None:
    from matplotlib import colormaps

    values = np.array([[-2.0, 0.0], [1.0, 2.0]])
    made = drawn(values[None], Shown())
    (seen,) = pixels(page.scene(made))
    reference = colormaps["RdBu_r"]((values + 2) / 4)[..., :3] * 255
    np.testing.assert_allclose(seen, reference, atol=2)
    assert 'class="pixels"' in page.scene(made)


def test_a_map_over_a_picture_covers_the_blocks_of_its_units(rng: np.random.Generator) -> None:
    heat = np.array([[3.0, 0.0], [0.0, -3.0]])
    over = colours.overlaid(np.full((8, 8), 0.5), heat, 3.0, (2, 2)).astype(int)
    assert (over[:4, :4, 0] - over[:4, :4, 2] > 15).all()  # red
    assert (over[4:, 4:, 2] - over[4:, 4:, 0] > 15).all()  # blue
    grey = np.rint(255 * (0.35 + 0.65 * 0.5))
    assert (over[:4, 4:] == grey).all()


def test_the_features_of_a_row_are_sorted_and_have_their_values() -> None:
    shown = Shown(rows={"x": np.array([[5.0, 6.0, 7.0]])}, features={"x": ["age", "<b>", "sex"]})
    made = drawn(np.array([0.5, -2.0, 1.0]), shown)
    (panel,) = made.panels
    assert isinstance(panel, RankPanel)
    assert panel.labels == ("<b> = 6", "sex = 7", "age = 5")
    assert panel.values.tolist() == [-2.0, 1.0, 0.5]
    html = page.scene(made)
    assert "<b> =" not in html
    assert "&lt;b&gt; = 6" in html


def test_a_series_is_a_line_coloured_by_its_attribution() -> None:
    values = np.zeros(100)
    values[40] = 1.0
    made = drawn(values, Shown(series={"x": np.sin(np.arange(100.0))[None, None]}))
    (panel,) = made.panels
    assert isinstance(panel, LinePanel)
    html = page.scene(made)
    assert html.count("<polyline") == 2  # the curve, and the one point that counts
    assert f'stroke="#{colours.ANCHORS[-1]}"' in html


def test_tokens_are_text_on_the_colour_of_their_attribution() -> None:
    shown = Shown(tokens={"x": np.array([["a", "<script>", "c"]])})
    made = drawn(np.array([[0.0, 4.0, -4.0]]).T, shown)
    (panel,) = made.panels
    assert isinstance(panel, TokensPanel)
    html = page.scene(made)
    assert "<script>" not in html
    assert 'class="c255" title="4">&lt;script&gt;' in html
    assert 'class="c0"' in html
    assert f".c255{{background:#{colours.ANCHORS[-1]};color:#fff}}" in page.css()
    assert f".c0{{background:#{colours.ANCHORS[0]};color:#fff}}" in page.css()


def test_long_text_beside_others_is_a_strip_and_what_stands_around_its_strongest_tokens() -> None:
    values = np.zeros((1000, 1))
    values[[0, 500, 503]] = [[2.0], [4.0], [-4.0]]
    made = drawn(values, Shown(tokens={"x": np.array([[f"t{k}" for k in range(1000)]])}))
    html = page.scene(made, briefly=True)
    assert re.findall(r"<span[^>]*>(t\d+)</span>", html) == [
        *(f"t{k}" for k in range(5)),
        *(f"t{k}" for k in range(496, 508)),
    ]
    assert re.findall(r"… (\d+) more", html) == ["491", "492"]
    assert 'class="c255" title="4">t500<' in html
    (shown,) = pixels(html)
    assert shown.shape == (16, 64, 3)
    assert shown.reshape(-1, 3)[500].tolist() == list(colours.rgb(colours.ANCHORS[-1]))
    assert len(html) < 12_000
    assert html.count("all 1000 tokens, in rows of 64") == 1
    assert page.scene(made).count("<span class=") == 1000


def test_a_long_series_keeps_its_peaks_in_a_bounded_number_of_pieces() -> None:
    curve, values = np.zeros(16000), np.zeros(16000)
    curve[[777, 9000]] = 3.0, -2.0
    values[9001] = -1.0
    html = page.scene(drawn(values, Shown(series={"x": curve[None, None]})))
    assert html.count("<polyline") == 3  # the curve, and two points of the block that counts
    points = re.findall(r'points="([^"]+)" fill="none" stroke="#c4c4c4"', html)[0].split()
    heights = [float(one.split(",")[1]) for one in points]
    assert len(points) <= 320
    assert heights.count(min(heights)) == heights.count(max(heights)) == 1
    assert "each piece is the extreme of 100 points" in html
    assert len(html) < 8_000


@pytest.mark.parametrize("over", [False, True], ids=["map", "over a picture"])
def test_the_boxes_of_a_support_are_drawn_over_the_map(over: bool, rng: np.random.Generator) -> None:
    values, image = rng.normal(size=(8, 8)), rng.random((16, 16)) if over else None
    boxes = (Box(2, 1, 3, 4, 8, 0.5), Box(0, 7, 0, 7, 1, 0.1))
    panel = HeatPanel("map", values, 1.0, image, (8, 8), True, boxes)
    html = page.panel(panel)
    size, scale = ("16 16", 2) if over else ("8 8", 1)
    assert f'viewBox="0 0 {size}"' in html
    found = re.findall(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"/>', html)
    assert np.array(found, float).tolist() == [
        [scale * n for n in one] for one in ([1, 2, 4, 2], [7, 0, 1, 1])
    ]
    assert "<svg" not in page.panel(replace(panel, boxes=()))


def test_a_clipped_range_is_said_in_the_caption(rng: np.random.Generator) -> None:
    values = rng.normal(size=(3, 32, 32))
    values[:, 0, 0] = 1e6
    made = drawn(values, Shown(images=rng.random((1, 3, 32, 32))))
    html = page.scene(made, without_input=True, only_over=True)
    assert "colours end at percentile 99" in html
    assert "≥ " in html
    assert len(pixels(html)) == 1


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((1, 4), "rows"), ((1, 1, 64), "rows"), ((1, 500), "series"), ((1, 2, 40), "series"),
     ((1, 40, 2), "series"), ((1, 30, 40), "map"), ((1, 3, 8, 8), "map")],
)  # fmt: skip
def test_what_an_input_is_taken_for(shape: tuple[int, ...], kind: str) -> None:
    assert kind_of(np.zeros(shape, np.float32)) == kind


def test_pictures_are_shown_as_they_were_before_the_scaling_of_the_model(rng: np.random.Generator) -> None:
    original = rng.random((2, 5, 5, 3))
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    given = np.moveaxis((original[..., ::-1] - mean) / std, -1, 1).astype(np.float32)  # blue first
    info = ModelInfo(
        "m", 1, "READY", batch="dynamic", inputs=(TensorInfo("x", "float32", ("N", 3, 5, 5), 0),),
        preprocessing={"x": Preprocessing("image", None, 1 / 255, tuple(mean), tuple(std), "chw", "bgr")},
    )  # fmt: skip
    shown = shown_of(info, {"x": given})
    seen = shown.image(1)
    assert seen is not None
    np.testing.assert_allclose(seen, original[1], atol=1e-6)


def test_a_map_of_nothing_says_so() -> None:
    assert "all attributions are 0" in page.scene(drawn(np.zeros((2, 3, 3)), Shown()))
    assert "no finite numbers" in page.scene(drawn(np.full((2, 3, 3), np.nan), Shown()))


def test_curves_keep_their_order_of_colours_and_say_their_axes() -> None:
    x = np.linspace(0, 1, 5)
    html = charts.curves({"a": Curve(x, x), "b<": Curve(x, 1 - x, x * 0, x * 0 + 1)}, "share", "score")
    assert html.count("<polyline") == 2
    assert html.count("<polygon") == 1
    assert "b&lt;" in html
    assert html.index(colours.LINES[0]) < html.index(colours.LINES[1])


def test_branches_stand_beside_each_other_and_a_bypassed_layer_is_dashed() -> None:
    stages = [Stage("in", "", "", 1.0, True), Stage("left", "Conv", "3", 0.25, False),
              Stage("right", "Conv", "3", 0.75, False), Stage("out", "Add", "3", 1.0, True)]  # fmt: skip
    html = charts.flow(stages, [("in", "left"), ("in", "right"), ("left", "out"), ("right", "out")])
    assert html.count("stroke-dasharray") == 2
    assert html.count("<line") == 4
    boxes = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="38"', html)
    assert boxes[1][1] == boxes[2][1]
    assert boxes[1][0] != boxes[2][0]


def test_a_heat_panel_names_the_size_of_the_layer(rng: np.random.Generator) -> None:
    made = drawn(rng.normal(size=(4, 6, 6)), Shown(images=rng.random((1, 1, 12, 12))))
    heats = [one for one in made.panels if isinstance(one, HeatPanel)]
    assert [one.units for one in heats] == [(6, 6), (6, 6)]


def test_text_beside_many_is_a_strip_of_squares() -> None:
    values = np.linspace(-1, 1, 40)
    panel = TokensPanel(Tokens("text", tuple("abcd" * 10), 0), Drawn(values, "attribution"), 1.0)
    source = re.findall(r'src="data:image/png;base64,([^"]*)"', page.strip(panel))
    pixels = np.asarray(images.open(io.BytesIO(base64.b64decode(source[0]))))
    assert pixels.shape[:2] == (2, 32)
    np.testing.assert_array_equal(pixels.reshape(-1, 3)[:40], colours.coloured(values, 1.0))
    assert "all attributions are 0" in page.strip(
        TokensPanel(panel.tokens, Drawn(np.zeros(3), "attribution"), 1.0)
    )

"""The page of examples/browser in Chromium: built files of real models give the numbers of the engine, what cannot run
is refused in words, and a phone shows it whole, in dark and in light."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_attribution.methods import make
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.browser.test_browser import ROOT, scripted
from tests.server.cli.commands import run

Array = NDArray[Any]
DIGITS = ROOT / "tests" / "data" / "digits" / "digits.onnx"
PAGE = ROOT / "examples" / "browser"


@dataclass(frozen=True)
class Case:
    """A real model, and how a file is built of it."""

    name: str
    shape: tuple[int, ...]
    method: str = "neuron_ig"
    layer: str = ""
    steps: int | None = 16
    target: tuple[int, ...] = (1,)


REAL = [
    Case("mnist-cnn-pytorch", (2, 1, 28, 28)),
    Case("mnist-cntk", (2, 1, 28, 28), "deeplift_rescale", steps=None),
    Case("gtsrb-traffic-sign", (2, 32, 32, 3)),
    Case("cifar10-wide-kw", (2, 3, 32, 32), layer="12"),
    Case("plate-type-cls", (1, 3, 96, 96), steps=4),
    Case("penguin-mlp", (3, 4), "integrated_gradients", steps=32),
    Case("cct2-layernorm-decomposed", (1, 3, 32, 32), steps=8),
]
"""Convolutions, those of a MobileNet's kind among them, a transformer, a table."""


def built(file: Path, out: Path, *options: str | Path) -> Path:
    """Returns the file that the command writes."""
    done = run("build", file, "-o", out, *options)
    assert done.exit_code == 0, done.output
    return out


def used(folder: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what Chromium says of the page."""
    told = folder / "cases.json"
    told.write_text(
        json.dumps([{k: str(v) if isinstance(v, Path) else v for k, v in one.items()} for one in cases])
    )
    found: dict[str, Any] = json.loads(scripted("alone.mjs", PAGE, told, folder))
    assert {one.split("/")[2] for one in found["requests"] if one.startswith("http")} == {
        found["at"].split("/")[2]
    }
    return found


def array_of(answer: dict[str, Any], name: str) -> Array:
    made = answer["outputs"][name]
    return np.asarray(made["data"], float).reshape(made["dims"])


def l1(found: Array, wanted: Array) -> float:
    """Returns the distance relative to the size."""
    wanted = wanted.reshape(found.shape)
    return float(np.abs(found - wanted).sum() / np.abs(wanted).sum())


def test_the_page_gives_the_engines_numbers_of_real_models(shared: Path, tmp_path: Path) -> None:
    cases, wanted = [], {}
    with Engine(provider="cpu", threads=2) as engine:
        for case in REAL:
            (file,) = (shared / "models" / case.name).glob("*.onnx")
            method: dict[str, Any] = {"quadrature": "trapezoid", "steps": case.steps} if case.steps else {}
            layer = ["--layer", case.layer] if case.layer else []
            options = [part for key, value in method.items() for part in (f"--{key}", str(value))]
            out = built(file, tmp_path / f"{case.name}.onnx", "--method", case.method, *layer, *options)
            engine.add(case.name, file)
            (name,) = (one.name for one in engine.info(case.name).inputs)
            x = np.random.default_rng(0).random(case.shape).astype(np.float32)
            arrays: dict[str, Any] = {name: x}
            np.savez(tmp_path / f"{case.name}.npz", **arrays)
            cases.append(
                {"name": case.name, "program": out, "input": tmp_path / f"{case.name}.npz", "baseline": 0.25,
                 "target": ",".join(map(str, case.target))}
                | ({"row": 1} if len(x) > 1 else {})
            )  # fmt: skip
            index = case.target if len(case.target) > 1 else case.target[0]
            ask = AttributionRequest(
                case.name, {name: x[:1] if len(x) == 1 else x[1:2]}, make(case.method, method),
                [case.layer] if case.layer else [], target=Target(index=index),
                baselines={name: np.full_like(x[:1], 0.25)},
            )  # fmt: skip
            wanted[case.name] = engine.attribute(ask)
    found = used(tmp_path, cases)
    assert found["messages"] == []
    for case in REAL:
        told, result = found["cases"][case.name], wanted[case.name]
        assert told["refused"] == "", case.name
        (answer,) = told["answers"]
        for at, one in result.layers.items():
            assert l1(array_of(answer, f"attribution/{at}"), one.values) <= 1e-5, case.name


def test_the_page_gives_the_engines_numbers_of_tokens(shared: Path, tmp_path: Path) -> None:
    file = shared / "models" / "voicevox-duration" / "model.onnx"
    tokens: dict[str, Any] = {"phoneme_list": np.array([3, 30, 12, 7, 0]), "speaker_id": np.array([2])}
    np.savez(tmp_path / "tokens.npz", **tokens)
    method = {"steps": 16, "quadrature": "trapezoid"}
    out = built(file, tmp_path / "a.onnx", "--steps", "16", "--quadrature", "trapezoid")
    with Engine(provider="cpu", threads=2) as engine:
        engine.add("m", file)
        wanted = engine.attribute(
            AttributionRequest("m", tokens, make("neuron_ig", method), target=Target(index=3))
        )
    case = {"name": "tokens", "program": out, "input": tmp_path / "tokens.npz", "target": 3}
    told = used(tmp_path, [case])["cases"]["tokens"]
    assert told["refused"] == ""
    assert len(wanted.layers) == 2
    for at, one in wanted.layers.items():
        assert l1(array_of(told["answers"][0], f"attribution/{at}"), one.values) <= 1e-5
        assert at in told["words"]
    assert "positions" in told["words"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, digits_path: Path) -> dict[str, Any]:
    """Returns what Chromium says of the page with files of the digits model, those that cannot be run among them."""
    folder = tmp_path_factory.mktemp("alone")
    program = built(
        digits_path,
        folder / "digits.onnx",
        "--layer",
        "image",
        "--layer",
        "conv2",
        "--baseline",
        "0",
        "--steps",
        "16",
    )
    lifted = built(digits_path, folder / "lifted.onnx", "--method", "deeplift-rescale", "--target-weights")
    stepped = built(digits_path, folder / "stepped.onnx", "--steps-input", "--target", "7")
    data = digits_path.with_name("digits.npz")
    with np.load(data) as arrays:
        images = arrays["images"]
    Image.fromarray((images[3, 0] * 255).round().astype(np.uint8)).save(folder / "digit.png")
    np.save(folder / "image.npy", np.asfortranarray(images[3].astype(np.float64)))
    np.savez_compressed(folder / "packed.npz", image=images[3:4], **{"baseline/image": images[4:5]})
    (folder / "image.json").write_text(json.dumps(images[3].tolist()))
    (folder / "ragged.json").write_text("[[1, 2], [3]]")
    (folder / "cut.onnx").write_bytes(program.read_bytes()[:3000])
    (folder / "words.onnx").write_text("hello")
    cases: list[dict[str, Any]] = [
        {"name": "classes", "program": program, "input": data, "row": 3, "target": "6-8", "picture": True},
        {"name": "png", "program": program, "input": folder / "digit.png", "target": "7"},
        {"name": "npy", "program": program, "input": folder / "image.npy", "target": "-3"},
        {"name": "json", "program": program, "input": folder / "image.json", "target": "7"},
        {"name": "lifted", "program": lifted, "input": folder / "packed.npz", "target": "7"},
        {"name": "stepped", "program": stepped, "input": data, "row": 3, "steps": 32, "baseline": 0.5},
        {"name": "drawn", "program": program, "target": "1"},
        {"name": "cut", "program": folder / "cut.onnx", "picture": True},
        {"name": "words", "program": folder / "words.onnx"},
        {"name": "model", "program": digits_path},
        {"name": "far", "program": program, "input": data, "target": "77"},
        {"name": "seven", "program": program, "input": data, "target": "seven"},
        {"name": "ragged", "program": program, "input": folder / "ragged.json"},
        {"name": "shape", "program": program, "input": digits_path.with_name("classes.csv")},
        {"name": "card", "program": program, "input": data, "row": 3, "target": "7", "provider": "webgpu"},
    ]
    return {**used(folder, cases), "images": images, "program": program}


def expected(seen: dict[str, Any], index: int) -> dict[str, Array]:
    """Returns what plain onnxruntime makes of the file."""
    session = onnxruntime.InferenceSession(str(seen["program"]), providers=["CPUExecutionProvider"])
    feeds = {"image": seen["images"][3:4], "target": np.array([index])}
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, feeds), strict=True))


def test_several_targets_are_explained_one_beside_the_other(seen: dict[str, Any]) -> None:
    told = seen["cases"]["classes"]
    assert [one["target"] for one in told["answers"]] == [[6], [7], [8]]
    for one in told["answers"]:
        for name, wanted in expected(seen, one["target"][0]).items():
            np.testing.assert_allclose(array_of(one, name), wanted, rtol=1e-5, atol=1e-5)
    assert "17 rows of the network each" in told["status"]
    for words in ("Target 7", "F(x)", "F(baseline)", "completeness error", "L1 error, estimated", "channels"):
        assert words in told["words"]


@pytest.mark.parametrize("name", ["png", "npy", "json"])
def test_a_picture_and_arrays_of_any_form_give_the_same_numbers(seen: dict[str, Any], name: str) -> None:
    (one,) = seen["cases"][name]["answers"]
    wanted = expected(seen, 7)["attribution/image"]
    # a byte of a pixel is one part of 255
    assert l1(array_of(one, "attribution/image"), wanted) <= (0.02 if name == "png" else 1e-5)


def test_weights_of_the_target_and_a_baseline_of_the_file_are_taken(seen: dict[str, Any]) -> None:
    (one,) = seen["cases"]["lifted"]["answers"]
    model = onnxruntime.InferenceSession(str(DIGITS), providers=["CPUExecutionProvider"])
    at, low = (float(model.run(None, {"image": seen["images"][k : k + 1]})[0][0, 7]) for k in (3, 4))
    assert array_of(one, "target/value").item() == pytest.approx(at, rel=1e-5)
    assert array_of(one, "target/baseline").item() == pytest.approx(low, rel=1e-5)
    assert array_of(one, "attribution/image").sum() == pytest.approx(at - low, rel=1e-4)
    assert "2 rows" in seen["cases"]["lifted"]["status"]


def test_steps_and_a_baseline_are_fields(seen: dict[str, Any]) -> None:
    told = seen["cases"]["stepped"]
    assert "33 rows" in told["status"]
    model = onnxruntime.InferenceSession(str(DIGITS), providers=["CPUExecutionProvider"])
    low = model.run(None, {"image": np.full((1, 1, 8, 8), 0.5, np.float32)})[0][0, 7]
    assert array_of(told["answers"][0], "target/baseline").item() == pytest.approx(float(low), rel=1e-5)


def test_an_input_may_be_drawn(seen: dict[str, Any]) -> None:
    assert seen["cases"]["drawn"]["answers"][0]["target"] == [1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut", "cut.onnx is no ONNX file, or it is cut off."),
        ("words", "words.onnx is no ONNX file"),
        ("model", "digits.onnx is a model that attributes nothing"),
        ("far", "Perhaps the target's index is not there"),
        ("seven", "“seven” is no target."),
        ("ragged", "are not of equal length"),
        ("shape", "classes.csv is no JSON"),
    ],
)
def test_what_cannot_be_run_is_refused_in_words(seen: dict[str, Any], name: str, words: str) -> None:
    told = seen["cases"][name]
    assert words in told["refused"]
    assert "Something went wrong" not in told["refused"]
    assert told["words"] == ""


def test_nothing_is_said_on_the_console(seen: dict[str, Any]) -> None:
    assert seen["messages"] == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["classes", "cut"])
def test_nothing_lies_outside_of_the_page(seen: dict[str, Any], name: str, scheme: str, width: int) -> None:
    found = seen["cases"][name]["widths"][f"{scheme} {width}"]
    assert found["page"] <= width
    assert found["smallest"] >= 12
    assert found["canvases"] == (7 if name == "classes" else 0)
    ink, paper = (
        sum(int(part) for part in found[one].strip("rgb()").split(",")[:3]) for one in ("ink", "paper")
    )
    assert ink > paper if scheme == "dark" else ink < paper


def test_the_graphics_card_gives_the_same_numbers(seen: dict[str, Any]) -> None:
    told = seen["cases"]["card"]
    if not told["adapter"]:
        pytest.skip("Chromium has no adapter for WebGPU here, not even one in software")
    assert "on the graphics card" in told["status"]
    wanted = expected(seen, 7)
    for layer in ("image", "conv2"):
        assert (
            l1(array_of(told["answers"][0], f"attribution/{layer}"), wanted[f"attribution/{layer}"]) <= 1e-5
        )

"""Built files give in Chromium, with onnxruntime-web, the numbers that they give in plain onnxruntime."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.server.cli.commands import run

Array = NDArray[Any]
ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / ".browser"
HERE = Path(__file__).parent


def opened(folder: Path, page: str, *more: str | Path) -> str:
    """Returns what a page of a folder makes in Chromium; skips where something for that is missing."""
    return scripted("run.mjs", folder, page, *more)


def scripted(script: str, *arguments: str | Path) -> str:
    """Returns what a script of this folder prints of pages in Chromium; skips where something for that is missing."""
    found = {name: shutil.which(name) for name in ("node", "chromium")}
    missing = [f"no {name}" for name, path in found.items() if path is None]
    if not (PACKAGES / "node_modules" / "onnxruntime-web").is_dir():
        missing.append("no npm packages: make browser")
    if missing:
        pytest.skip("; ".join(missing))
    node, chromium = (path or "" for path in found.values())
    done = subprocess.run(
        [node, HERE / script, PACKAGES, chromium, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compare(folder: Path, cases: Sequence[tuple[Path, dict[str, Array]]], provider: str = "wasm") -> None:
    """Runs models of a folder in both, and compares all outputs; skips where nothing does WebGPU."""
    told = [
        {
            "model": path.name,
            "provider": provider,
            "feeds": {
                name: {"type": array.dtype.name, "dims": array.shape, "data": array.reshape(-1).tolist()}
                for name, array in feeds.items()
            },
        }
        for path, feeds in cases
    ]
    (folder / "cases.json").write_text(json.dumps(told))
    shutil.copy(HERE / "page.html", folder)
    made = json.loads(opened(folder, "page.html"))
    assert "error" not in made, made["error"]
    if provider == "webgpu" and not made["adapter"]:
        pytest.skip("Chromium has no adapter for WebGPU here, not even one in software")
    for path, feeds in cases:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [z.name for z in session.get_outputs()]
        assert list(made[path.name]) == names
        for name, wanted in zip(names, session.run(None, feeds), strict=True):
            found = np.asarray(made[path.name][name]["data"]).reshape(made[path.name][name]["dims"])
            scale = max(float(np.abs(wanted).max()), 1.0)
            np.testing.assert_allclose(
                found, wanted, rtol=1e-5, atol=1e-5 * scale, err_msg=f"{path.name} {name}"
            )


METHODS = {
    "gradient": [],
    "gradient-x-activation": [],
    "integrated-gradients": ["--steps", "8"],
    "neuron-ig": ["--steps-input"],
    "deeplift-rescale": [],
    "deeplift-reveal-cancel": [],
    "deeplift-genomics-default": [],
}


def test_every_method_gives_the_same_numbers_in_a_browser(
    tmp_path: Path, digits_path: Path, digits_data: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    images = digits_data[0][:2]
    cases = []
    for method, options in METHODS.items():
        layer = "image" if method == "integrated-gradients" else "conv2"
        for loop in [[], ["--loop"]] if options else [[]]:
            out = tmp_path / f"{method}{len(loop)}.onnx"
            given = ["--method", method, "--layer", layer, *options, *loop, "-o", str(out)]
            assert run("build", digits_path, *given).exit_code == 0
            feeds: dict[str, Array] = {"image": images, "target": np.array([7, 2])}
            if not method.startswith("gradient"):
                feeds["baseline/image"] = np.full_like(images[:1], 0.1)
            if "--steps-input" in options:
                feeds["steps"] = np.array([6])
            cases.append((out, feeds))
    compare(tmp_path, cases)


def test_a_trained_network_gives_the_same_numbers_in_a_browser(shared: Path, tmp_path: Path) -> None:
    file, out = shared / "models" / "cifar10-wide-kw" / "model.onnx", tmp_path / "a.onnx"
    assert run("build", file, "--method", "neuron-ig", "--layer", "12", "-o", out).exit_code == 0
    x = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    feeds = {"input": x, "baseline/input": np.zeros_like(x[:1]), "target": np.array([3, 5])}
    compare(tmp_path, [(out, feeds)])


def test_the_graphics_card_gives_the_same_numbers(
    shared: Path,
    tmp_path: Path,
    digits_path: Path,
    digits_data: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    """Images with pads of one axis in the way back, which a layout with channels last takes for pads of all axes."""
    cases: list[tuple[Path, dict[str, Array]]] = []
    files = [
        (digits_path, "deeplift-rescale", {"image": digits_data[0][:1]}),
        (shared / "models" / "mnist-cntk" / "model.onnx", "gradient", {}),
    ]
    for file, method, feeds in files:
        out = tmp_path / f"{method}.onnx"
        assert (
            run("build", file, "--method", method, "--target", "7", "--baseline", "0", "-o", out).exit_code
            == 0
        )
        x = np.random.default_rng(0).random((1, 1, 28, 28)).astype(np.float32)
        cases.append((out, feeds or {"Input3": x}))
    compare(tmp_path, cases, "webgpu")

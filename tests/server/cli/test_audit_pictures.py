"""What the page of an audit draws, and how large it becomes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.graph_tools.programs.heads import model_of
from tests.server.cli.commands import run

for needed in ("jinja2", "pyarrow", "scipy", "skimage"):
    pytest.importorskip(needed)

CONVOLVED = """net (float[N, 1, 12, 12] image) => (float[N, 2] scores) {
    c = Conv(image, kernel)
    h = Relu(c)
    f = Flatten(h)
    scores = Gemm(f, head)
}"""
EMBEDDED = """net (int64[N, 1000] tokens) => (float[N, 3] scores) {
    e = Gather(table, tokens)
    h = Tanh(e)
    m = ReduceMean<keepdims=0>(h, axes)
    scores = MatMul(m, head)
}"""
SIZE = 1_500_000
"""Bytes that a report may take."""


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_the_boxes_of_a_support_are_drawn_as_plots_draw_them(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    head = np.zeros((100, 2), np.float32)
    head[:3], head[-1] = (4.0, -4.0), (3.0, -3.0)
    onnx_file = tmp_path / "net.onnx"
    onnx.save(
        model_of(CONVOLVED, {"kernel": np.full((1, 1, 3, 3), 1 / 9, np.float32), "head": head}), onnx_file
    )
    np.savez(tmp_path / "data.npz", image=rng.random((3, 1, 12, 12)).astype(np.float32))
    out = tmp_path / "audit"
    done = run(
        "audit", onnx_file, "--data", tmp_path / "data.npz", "--methods", "gradient,fb-trace", "--checks",
        "randomisation", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    supports = [one["methods"]["fb_trace"]["support"] for one in report(out)["items"]]
    assert all(one["methods"]["gradient"]["support"] is None for one in report(out)["items"])
    page = (out / "report.html").read_text()
    (side_by_side,) = re.findall(r"Maps side by side</h2>.*?<h2", page, re.DOTALL)
    drawn = re.findall(r'<svg viewBox="0 0 12 12"[^>]*>(.*?)</svg>', side_by_side)
    wanted = [
        [
            [box["left"], box["top"], box["right"] - box["left"] + 1, box["bottom"] - box["top"] + 1]
            for box in boxes
        ]
        for one in supports
        for boxes in [one["layers"]["image"]["boxes"][:8]]
    ]
    assert wanted
    found = [re.findall(r'x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', one) for one in drawn]
    assert [[list(map(float, box)) for box in boxes] for boxes in found] == wanted
    assert "boxes: all parts of the support" in page
    assert page.count('class="boxed"') == 3  # and none on the maps of other weights, whose support is another


def test_a_report_on_long_texts_stays_small(tmp_path: Path, rng: np.random.Generator) -> None:
    table, head = rng.normal(size=(257, 8)), rng.normal(size=(8, 3))
    onnx_file = tmp_path / "net.onnx"
    constants: dict[str, np.ndarray] = {
        "table": table.astype(np.float32),
        "head": head.astype(np.float32),
        "axes": np.array([1], np.int64),
    }
    onnx.save(model_of(EMBEDDED, constants), onnx_file)
    np.savez(tmp_path / "data.npz", tokens=rng.integers(0, 257, (12, 1000)))
    out, methods = (
        tmp_path / "audit",
        "gradient,gradient-x-activation,integrated-gradients,deeplift-rescale,lrp",
    )
    done = run(
        "audit", onnx_file, "--data", tmp_path / "data.npz", "--methods", methods, "--parameter",
        "integrated_gradients.steps=4", "--checks", "none", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (out / "report.html").stat().st_size < SIZE / 1.2  # five of six methods
    assert (out / "report.html").read_text().count("all 1000 tokens, in rows of 64") == 60

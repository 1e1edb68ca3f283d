"""What `audit --compare` cannot compare is told, and what has no number is none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from onnx_attribution.client.audit.compare import moved_mass
from tests.server.cli.commands import model, run

for needed in ("jinja2", "pyarrow", "scipy", "skimage"):
    pytest.importorskip(needed)


def test_mass_moves_by_half_of_what_the_shares_differ() -> None:
    one, other = np.array([1.0, -1.0, 2.0]), np.array([0.0, -2.0, 2.0])
    assert moved_mass(one, other) == pytest.approx((0.25 + 0.25 + 0) / 2)
    assert moved_mass(one, -3 * one) == pytest.approx(1)
    assert math.isnan(moved_mass(one, 0 * one))
    assert math.isnan(moved_mass(0 * one, 0 * one))


def test_numbers_of_several_inputs_are_compared_together(tmp_path: Path) -> None:
    new, old = (
        model(
            tmp_path,
            f"""{name} (float[N,1] a, float[N,1] b, float[N,1] c) => (float[N,1] y)
            <float[1] va = {{{weights[0]}}}, float[1] vb = {{{weights[1]}}}, float[1] vc = {{{weights[2]}}}> {{
            p = Mul(a, va)
            q = Mul(b, vb)
            r = Mul(c, vc)
            y = Sum(p, q, r) }}""",
        ).rename(tmp_path / f"{name}.onnx")
        for name, weights in (("new", (3, 2, 1)), ("old", (3, 1, 2)))
    )
    one = np.ones((3, 1), np.float32)
    np.savez(tmp_path / "x.npz", a=one, b=one, c=one)
    done = run(
        "audit", new, "--data", tmp_path / "x.npz", "--checks", "none", "--methods", "deeplift-rescale",
        "--compare", old, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = json.loads((tmp_path / "out" / "report.json").read_text())["compare"]["lines"]
    told = {one["layer"]: one for one in lines}
    assert told["a"]["spearman"]["count"] == 0  # one number has no rank
    together = told["all inputs together"]
    assert together["spearman"]["value"] == pytest.approx(0.5)  # of (3, 2, 1) and (3, 1, 2)
    assert together["moved"]["value"] == pytest.approx((1 / 6 + 1 / 6) / 2, abs=1e-6)


def test_methods_that_refuse_one_of_both_models_are_told(tmp_path: Path) -> None:
    new, old = (
        model(
            tmp_path,
            f"""{name} (float[N,2] x) => (float[N,2] y)
            <float[2,2] v = {{1, -1, 2, 0.5}}> {{
            h = MatMul(x, v)
            y = {last}(h) }}""",
        ).rename(tmp_path / f"{name}.onnx")
        for name, last in (("new", "Identity"), ("old", "Floor"))
    )
    np.savez(tmp_path / "x.npz", x=np.array([[1.0, 2.5], [3.0, -1.2], [0.0, 4.2]], np.float32))
    done = run(
        "audit", new, "--data", tmp_path / "x.npz", "--checks", "none", "--methods", "neuron-ig,occlusion",
        "--compare", old, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "report.json").read_text())["compare"]
    (error,) = found["errors"]
    assert (error["method"], error["samples"]) == ("neuron_ig", 3)
    assert "y" in error["error"]
    assert {one["method"] for one in found["lines"]} == {"occlusion"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "neuron_ig has no maps to compare in 3 samples" in page
    # the mean over the samples of floor(x v) - x v at the larger element
    x = np.array([[1.0, 2.5], [3.0, -1.2], [0.0, 4.2]])
    scores = x @ np.array([[1.0, -1.0], [2.0, 0.5]])
    top = scores.argmax(axis=1)
    moved = (np.floor(scores) - scores)[range(3), top]
    assert found["shift"] == pytest.approx(moved.mean(), abs=1e-5)

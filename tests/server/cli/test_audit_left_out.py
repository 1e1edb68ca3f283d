"""One sample that cannot be explained does not spoil an audit, and a refused hidden layer no method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server.cli.commands import model, run

for needed in ("jinja2", "pyarrow", "scipy", "skimage"):
    pytest.importorskip(needed)
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


def test_samples_that_are_no_numbers_are_left_out_and_named(
    tmp_path: Path, digits_path: Path, digits_data: Data
) -> None:
    images, labels = digits_data[0][:4].copy(), digits_data[1][:4].copy()
    images[1, 0, 3, 3], labels[2:] = np.nan, [12, -1]
    np.savez(tmp_path / "x.npz", image=images, labels=labels)
    given = ["--data", str(tmp_path / "x.npz"), "--methods", "deeplift-rescale"]
    for more, left, known in (
        (["--checks", "classes,perturbations"], {"1"}, 1),
        (["--checks", "none", "--target", "label"], {"1", "2", "3"}, 1),
    ):
        out = tmp_path / str(len(left))
        done = run("audit", digits_path, *given, *more, "--out", out)
        assert done.exit_code == 0, done.output
        found = json.loads((out / "report.json").read_text())
        assert set(found["data"]["left_out"]) == left
        assert found["data"]["labelled"] == known
        assert f"{len(left)} of 4 samples are left out" in done.stderr
        assert found["methods"]["deeplift_rescale"]["metrics"]["completeness"]["count"] == 4 - len(left)
        assert found["settings"]["tensor"] is None
        assert found["settings"]["logit"] is False


def test_hidden_layers_that_are_refused_are_asked_for_no_more(tmp_path: Path) -> None:
    """Both outputs have a branch of their own; layers of the other are not between."""
    file = model(
        tmp_path,
        """m (float[N,2] x) => (float[N,2] a, float[N,2] b)
        <float[2,2] v = {1, -1, 2, 0}, float[2,2] w = {1, 3, -2, 1}> {
        h = MatMul(x, v)
        a = Relu(h)
        k = MatMul(x, w)
        b = Relu(k) }""",
    )
    np.savez(tmp_path / "x.npz", x=np.array([[1.0, 2.0]], np.float32))
    given = ["--data", str(tmp_path / "x.npz"), "--methods", "deeplift-rescale", "--checks", "none"]
    done = run("audit", file, *given, "--target", "b:1", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    (told,) = found["methods"].values()
    assert told["answered"] == 1
    assert found["settings"]["layers"] == []
    assert not any("without the hidden layers" in text for text in told["warnings"])
    named = run("audit", file, *given, "--target", "b:1", "--layer", "h", "--out", tmp_path / "named")
    assert named.exit_code == 0, named.output
    (told,) = json.loads((tmp_path / "named" / "report.json").read_text())["methods"].values()
    assert told["answered"] == 1
    assert any("without the hidden layers" in text for text in told["warnings"])


def test_a_region_of_an_image_output_is_explained_as_its_sum(tmp_path: Path) -> None:
    file = model(
        tmp_path,
        """m (float[N,1,4,4] x) => (float[N,1,4,4] y)
        <float[1,1,3,3] w = {1, 0, 2, 0, 3, 0, -1, 0, 1}> {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = Relu(c) }""",
    )
    x = np.random.default_rng(2).normal(size=(3, 1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    given: list[str | Path] = ["--data", tmp_path / "x.npz", "--methods", "gradient-x-activation"]
    given += ["--out", tmp_path / "out"]
    done = run("audit", file, *given, "--target", "0,1:3,0:2", "--checks", "perturbations,classes")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["settings"]["target"] == "0,1:3,0:2"
    assert "no classes" in found["skipped"]["classes"]
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    kernel = np.array([[1, 0, 2], [0, 3, 0], [-1, 0, 1]])
    for item, image in zip(found["items"], padded[:, 0], strict=True):
        whole = [[max((image[r : r + 3, c : c + 3] * kernel).sum(), 0) for c in range(4)] for r in range(4)]
        expected = np.array(whole)[1:3, 0:2].sum()
        assert item["methods"]["gradient_x_activation"]["target"]["value"] == pytest.approx(
            expected, rel=1e-5
        )
    metrics = found["methods"]["gradient_x_activation"]["metrics"]
    assert metrics["infidelity"]["value"] < 1  # better than a map of zeros
    unsaid = run("audit", file, *given, "--anew", "--checks", "none")
    assert unsaid.exit_code == 1
    assert "target" in unsaid.stderr


def test_a_model_without_derivatives_is_explained_by_methods_that_need_none(
    tmp_path: Path, sign: Path
) -> None:
    x = np.random.default_rng(3).normal(size=(2, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    given = ["--data", str(tmp_path / "x.npz"), "--checks", "none"]
    done = run("audit", sign, *given, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["methods"].keys() == {"occlusion", "kernel_shap"}
    assert all(one["answered"] == 2 for one in found["methods"].values())
    asked = run("audit", sign, *given, "--out", tmp_path / "asked", "--methods", "gradient")
    assert asked.exit_code == 1
    assert "occlusion or kernel_shap" in asked.stderr


def test_masks_that_are_not_given_are_no_matter_for_a_hidden_source(tmp_path: Path) -> None:
    """Of several sources, one hidden: nothing is known of its shape before the samples are explained."""
    file = model(
        tmp_path,
        """m (int64[N,2] ids, float[N,3] x) => (float[N,3] y)
        <float[4,3] table = {1, 0, 2, 0, 3, 0, -1, 0, 1, 2, 2, 2}> {
        e = Gather <axis = 0> (table, ids)
        s = ReduceMean <axes = [1], keepdims = 0> (e)
        y = Add(s, x) }""",
    )
    np.savez(tmp_path / "x.npz", ids=np.array([[0, 1], [2, 3]]), x=np.ones((2, 3), np.float32))
    given = ["--data", str(tmp_path / "x.npz"), "--methods", "gradient", "--checks", "ablation,perturbations"]
    done = run("audit", file, *given, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output

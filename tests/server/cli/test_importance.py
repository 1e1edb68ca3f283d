"""`importance`: what it writes is what the engine and a server say, and labels that do not fit are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.importance import Importance
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.server.cli.commands import run

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def engine(digits_path: Path) -> Iterator[Engine]:
    with Engine(provider="cpu", threads=2) as engine:
        engine.add("digits", digits_path)
        yield engine


@pytest.fixture(scope="module")
def wanted(engine: Engine, digits_data: Digits) -> Importance:
    return engine.importance("digits", digits_data[0][:20], digits_data[1][:20], layer="relu2")


@pytest.fixture
def data(digits_data: Digits, tmp_path: Path) -> Path:
    np.savez(tmp_path / "train.npz", images=digits_data[0][:20], y=digits_data[1][:20])
    return tmp_path / "train.npz"


def assert_near(out: Path, wanted: Importance) -> None:
    found = Importance.load(out)
    np.testing.assert_allclose(found.alpha, wanted.alpha, rtol=1e-5, atol=1e-6)  # of float32, in other runs
    for name in ("labels", "classes", "count", "layer", "target", "digest"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_a_file_is_measured(digits_path: Path, data: Path, wanted: Importance, tmp_path: Path) -> None:
    out = tmp_path / "importance.npz"
    found = run("importance", digits_path, "--layer", "relu2", "--data", data, "-o", out)
    assert found.exit_code == 0, found.output
    assert "importance of the 32 units of relu2 for logits" in found.stdout
    assert_near(out, wanted)


@pytest.mark.parametrize("form", ["indices", "one-hot", "own one-hot", "npy", "folder", "rows"])
def test_data_and_labels_have_many_forms(
    digits_path: Path, digits_data: Digits, data: Path, wanted: Importance, tmp_path: Path, form: str
) -> None:
    out, images, labels = tmp_path / "o.npz", digits_data[0], digits_data[1]
    options: list[Any] = ["--data", data]
    np.save(tmp_path / "y.npy", np.eye(10)[labels[:20]] if form == "one-hot" else labels[:20])
    if form in ("indices", "one-hot"):
        options += ["--labels", tmp_path / "y.npy"]
    elif form == "own one-hot":
        np.savez(data, images=images[:20], labels=np.eye(10, dtype=np.int8)[labels[:20]])
    elif form == "npy":
        np.save(tmp_path / "x.npy", images[:20].astype(np.float64))
        options = ["--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy"]
    elif form == "folder":
        for k in range(20):
            (tmp_path / "all" / str(labels[k])).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "all" / str(labels[k]) / f"{k:02}.npy", images[k])
        options = ["--data", tmp_path / "all"]
    else:
        np.savez(data, images=images[:30])
        np.save(tmp_path / "y.npy", labels[:30])
        options += ["--labels", tmp_path / "y.npy", "--rows", "0:20"]
    found = run("importance", digits_path, "--layer", "relu2", *options, "-o", out)
    assert found.exit_code == 0, found.output
    if form == "folder":  # in the order of the classes
        assert sorted(Importance.load(out).labels) == sorted(labels[:20])
        np.testing.assert_allclose(Importance.load(out).mean, wanted.mean, rtol=1e-5, atol=1e-6)
    else:
        assert_near(out, wanted)


def test_a_server_is_asked_for_the_same(
    engine: Engine, data: Path, wanted: Importance, tmp_path: Path
) -> None:
    out = tmp_path / "importance.npz"
    with app.background(engine, Settings(port=0)) as (address, _):
        options = ("--layer", "relu2", "--data", data, "--server", address, "--json")
        found = run("importance", "digits", *options, "-o", out)
    assert found.exit_code == 0, found.output
    assert_near(out, wanted)
    told = json.loads(found.stdout)
    assert (told["samples"], told["units"], told["layer"], told["target"]) == (20, 32, "relu2", "logits")
    assert [one["class"] for one in told["classes"]] == wanted.classes.tolist()
    assert [one["samples"] for one in told["classes"]] == wanted.count.tolist()
    unit = told["classes"][0]["strongest"][0]
    assert unit["unit"] == np.abs(wanted.mean[0]).argmax()
    np.testing.assert_allclose(unit["mean"], wanted.mean[0, unit["unit"]], rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (np.zeros(19, np.int64), [], "there are 20 samples and 19 labels"),
        (np.full(20, 10), [], "labels[0] is 10; the output has the classes 0 to 9"),
        (np.full((20, 10), 0.1), [], "labels[0] is no one-hot row"),
        (np.array(["a"] * 20), [], "labels are an index of a class for each sample"),
        (np.zeros(20, np.int64), ["--layer", "nowhere"], "nowhere"),
        (np.zeros(20, np.int64), ["--channel-axis", "4"], "no axis of channels 4"),
        (np.zeros(20, np.int64), ["--channel-axis", "0"], "channel_sums is"),
        (np.zeros(20, np.int64), ["--logit"], "has no logit"),
    ],
)
def test_what_does_not_fit_is_refused(
    digits_path: Path, data: Path, tmp_path: Path, labels: Any, options: list[str], words: str
) -> None:
    np.save(tmp_path / "y.npy", labels)
    asked: list[str | Path] = ["--layer", "relu2", "--data", data]
    asked += ["--labels", tmp_path / "y.npy", "-o", tmp_path / "o.npz"]
    found = run("importance", digits_path, *asked, *options)
    assert found.exit_code == 2, found.output
    assert words in " ".join(found.stderr.split())
    assert not (tmp_path / "o.npz").exists()


def test_data_without_labels_are_refused(digits_path: Path, digits_data: Digits, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=digits_data[0][:3])
    found = run(
        "importance", digits_path, "--layer", "relu2", "--data", tmp_path / "x.npz", "-o", tmp_path / "o.npz"
    )
    assert found.exit_code == 2
    assert "has no labels; --labels FILE" in found.stderr

"""`batch` writes the attributions of a data set: as processes and servers do, and as explain says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import AttributionRequest
from tests.server.cli.commands import model, run

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
Data = tuple[NDArray[np.float32], NDArray[np.int64]]
SIZE = ("--shard-size", "4")


@pytest.fixture
def samples(tmp_path: Path, digits_data: Data) -> Path:
    """Returns ten digits in groups of three rows."""
    path = tmp_path / "digits.parquet"
    table = pyarrow.table(
        {"image": [one.ravel() for one in digits_data[0][:10]], "label": digits_data[1][:10]}
    )
    parquet.write_table(table, path, row_group_size=3)
    return path


def table(folder: Path) -> list[dict[str, Any]]:
    return [line for file in sorted(folder.glob("part-*")) for line in parquet.read_table(file).to_pylist()]


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted(folder.glob("part-*"))}


def test_lines_are_the_answers_of_the_engine(
    tmp_path: Path, digits_path: Path, digits_data: Data, samples: Path
) -> None:
    out = tmp_path / "out"
    done = run("batch", digits_path, "--data", samples, "--method", "deeplift-rescale", "--out", out, *SIZE)
    assert done.exit_code == 0, done.output
    assert "10 samples in 3 files" in done.stdout
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("m", digits_path)
        right = engine.attribute(AttributionRequest("m", {"image": digits_data[0][:10]}, "deeplift_rescale"))
    found = table(out)
    values = np.array([line["values"] for line in found]).reshape(10, 1, 8, 8)
    np.testing.assert_allclose(values, np.asarray(right.layers["image"].values, float), rtol=1e-5, atol=1e-6)
    assert [line["target_index"] for line in found] == list(right.target.index)
    assert [line["label"] for line in found] == [str(one) for one in digits_data[1][:10]]
    assert [line["id"] for line in found] == [str(k) for k in range(10)]


def test_servers_write_what_processes_write(tmp_path: Path, digits_path: Path, samples: Path) -> None:
    asked = ("--data", samples, "--method", "neuron-ig", "--layer", "*", "--sums-only", *SIZE)
    assert run("batch", digits_path, *asked, "--out", tmp_path / "local", "--workers", "1").exit_code == 0
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _):
            done = run(
                "batch", "digits", *asked, "--out", tmp_path / "served", "--executor", "grpc",
                "--server", address, "--server", address,
            )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "served") == files(tmp_path / "local")


def test_a_sample_out_of_range_is_told_and_the_others_are_explained(tmp_path: Path) -> None:
    path = model(
        tmp_path,
        """t (int64[N,2] ids) => (float[N,2] y)
        <int64[1] axis = {1}, float[3,2] table = {1,2,3,4,5,6}> {
            rows = Gather(table, ids)
            y = ReduceSum(rows, axis)
        }""",
    )
    data = tmp_path / "ids.npz"
    np.savez(data, ids=np.array([[0, 1], [2, 9], [1, 1]]))
    done = run(
        "batch", path, "--data", data, "--method", "gradient", "--target", "0", "--out", tmp_path / "o"
    )
    assert done.exit_code == 1
    assert "1 of 3 samples cannot be explained" in done.stderr
    found = table(tmp_path / "o")
    assert [line["error"] is None for line in found] == [True, False, True]
    assert found[0]["values"] == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--layer", "conv99"), "conv99"),
        (("--executor", "dask"), "no executor 'dask'"),
        (("--executor", "grpc"), "--executor grpc asks the servers"),
        (("--server", "localhost:1"), "--executor grpc asks the servers"),
        (("--parameter", "steps=0", "--method", "neuron-ig"), "steps"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_nothing_is_committed(
    tmp_path: Path, digits_path: Path, samples: Path, options: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "out"
    done = run("batch", digits_path, "--data", samples, "--out", out, "--workers", "1", *SIZE, *options)
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert not list(out.glob("part-*"))


def test_another_question_does_not_go_on_in_the_folder_of_one(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    asked = ("batch", digits_path, "--data", samples, "--out", tmp_path / "out", "--workers", "1", *SIZE)
    assert run(*asked, "--method", "gradient").exit_code == 0
    before = files(tmp_path / "out")
    done = run(*asked, "--method", "gradient", "--target", "3")
    assert done.exit_code == 2
    assert "another request" in done.stderr
    assert files(tmp_path / "out") == before
    assert run(*asked, "--method", "gradient", "--target", "3", "--anew").exit_code == 0
    assert {line["target_index"] for line in table(tmp_path / "out")} == {"3"}

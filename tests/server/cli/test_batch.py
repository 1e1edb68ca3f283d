"""`batch` writes the attributions of a data set: as processes and servers do, and as explain says."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.audit.data import Item
from onnx_attribution.methods import IntegratedGradients
from onnx_attribution.server.app import background
from onnx_attribution.server.cli.asker import Place, asking
from onnx_attribution.server.cli.batch import _Where
from onnx_attribution.server.cli.data_source import FileSource
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.engine import MEMORY
from onnx_attribution.server.scale import run_batch
from onnx_attribution.server.scale.shards import Unread
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import AttributionRequest, ModelInfo, TensorInfo
from tests.server.cli.commands import model, run

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
Data = tuple[NDArray[np.float32], NDArray[np.int64]]
SIZE = ("--shard-size", "4")
GRPC = ("--executor", "grpc", "--server", "localhost:1")


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
    return list(parquet.read_table(folder).to_pylist())


def files(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted((folder / "parts").glob("*"))}


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


def test_what_answers_warn_of_is_in_the_lines_of_their_samples(
    tmp_path: Path, digits_path: Path, digits_data: Data, samples: Path
) -> None:
    out, steps = tmp_path / "out", ("--method", "integrated-gradients", "--steps", "2")
    assert run("batch", digits_path, "--data", samples, *steps, "--out", out, *SIZE).exit_code == 0
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("m", digits_path)
        shards = (digits_data[0][:4], digits_data[0][4:8], digits_data[0][8:10])
        method = IntegratedGradients(steps=2)
        right = [engine.attribute(AttributionRequest("m", {"image": one}, method)).warnings for one in shards]
    assert all(right)
    found = table(out)
    assert [tuple(line["warnings"]) for line in found] == [right[k // 4] for k in range(10)]
    assert len(set(right)) > 1


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


def test_one_server_that_answers_is_enough(tmp_path: Path, digits_path: Path, samples: Path) -> None:
    asked = ("--data", samples, "--method", "gradient", *SIZE)
    assert run("batch", digits_path, *asked, "--out", tmp_path / "local", "--workers", "1").exit_code == 0
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _):
            done = run(
                "batch", "digits", *asked, "--out", tmp_path / "served", "--executor", "grpc",
                "--server", f"127.0.0.1:{unused()}", "--server", address,
            )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "served") == files(tmp_path / "local")


def test_without_a_server_that_answers_nothing_is_begun(tmp_path: Path, samples: Path) -> None:
    servers = [f"127.0.0.1:{unused()}" for _ in range(2)]
    done = run(
        "batch", "digits", "--data", samples, "--out", tmp_path / "out", "--executor", "grpc",
        "--server", servers[0], "--server", servers[1],
    )  # fmt: skip
    assert done.exit_code == 1
    assert "no server answers" in done.stderr
    assert all(one in done.stderr for one in servers)
    assert not (tmp_path / "out").exists()


def unused() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_one_bad_picture_is_one_bad_line(tmp_path: Path, digits_path: Path, digits_data: Data) -> None:
    data = tmp_path / "pictures"
    data.mkdir()
    for k in range(3):
        pixels = (digits_data[0][k, 0] / digits_data[0].max() * 255).astype(np.uint8)
        (data / f"{k}.pgm").write_bytes(b"P5 8 8 255\n" + pixels.tobytes())
    (data / "1.pgm").write_bytes(b"P5 8 8 255\n12")
    asked = ("--method", "gradient", "--out", tmp_path / "out", "--workers", "1")
    done = run("batch", digits_path, "--data", data, *asked)
    assert done.exit_code == 1, done.output
    assert "1 of 3 samples cannot be explained" in done.stderr
    found = table(tmp_path / "out")
    assert [line["id"] for line in found] == ["0.pgm", "1.pgm", "2.pgm"]
    assert [line["error"] is None for line in found] == [True, False, True]
    assert "1.pgm" in found[1]["error"]


def test_a_part_that_was_damaged_between_two_runs_is_told_of_and_written_again(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    asked = ("batch", digits_path, "--data", samples, "--out", tmp_path / "out", "--workers", "1", *SIZE)
    assert run(*asked, "--method", "gradient").exit_code == 0
    before = files(tmp_path / "out")
    part = tmp_path / "out" / "parts" / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    done = run(*asked, "--method", "gradient")
    assert done.exit_code == 0
    assert "'part-000001.parquet' has" in done.stderr
    assert files(tmp_path / "out") == before


def test_data_that_changed_between_two_runs_is_told_of(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    asked = ("batch", digits_path, "--data", samples, "--out", tmp_path / "out", "--workers", "1", *SIZE)
    assert run(*asked, "--method", "gradient").exit_code == 0
    parquet.write_table(parquet.read_table(samples).slice(1), samples)
    done = run(*asked, "--method", "gradient")
    assert done.exit_code == 2
    assert "holds the results of a batch with another data set: --anew begins once more" in done.stderr


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
        (("--target", "99"), "99"),
        (("--executor", "dask"), "no executor 'dask'; there are: local, grpc, ray"),
        (("--executor", "grpc"), "--executor grpc asks servers: give --server HOST:PORT"),
        (("--server", "localhost:1"), "--server is for --executor grpc, not local"),
        (("--executor", "ray", "--server", "localhost:1"), "--server is for --executor grpc, not ray"),
        (("--address", "auto"), "--address is for --executor ray"),
        (("--gpus", "1"), "--gpus is for --executor ray"),
        (("--model", "m"), "--model is for --executor grpc"),
        (("--executor", "ray", "--gpus", "1.5"), "--gpus 1.5: an actor has a part of one GPU, or whole ones"),
        (("--executor", "ray", "--provider", "cuda"), "--provider cuda needs --gpus"),
        ((*GRPC, "--gpus", "1"), "--gpus is for --executor ray"),
        (
            (*GRPC, "--workers", "2"),
            "--workers is for --executor local and ray; a server that is named twice",
        ),
        ((*GRPC, "--provider", "cpu"), "--provider is for --executor local and ray; a server has its own"),
        ((*GRPC, "--threads", "2"), "--threads is for --executor local and ray"),
        ((*GRPC, "--shape", "image=1x1x8x8"), "--shape is for --executor local and ray"),
        ((*GRPC, "--batch-axis", "image=0"), "--batch-axis is for --executor local and ray"),
        (("--parameter", "steps=0", "--method", "neuron-ig"), "steps"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_nothing_is_committed(
    tmp_path: Path, digits_path: Path, samples: Path, options: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "out"
    done = run("batch", digits_path, "--data", samples, "--out", out, *SIZE, *options)
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not files(out)


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


LINEAR = "t (float[N,2,2] x) => (float[N] y) <int64[2] axes = {1,2}> { y = ReduceSum<keepdims=0>(x, axes) }"
FOUR = [[1.0, 2, 3, 4]] * 3
NULL = [[1.0, 2, 3, 4], None, [1.0, 2, 3, 4]]
HOLE = [[1.0, 2, 3, 4], [1.0, None, 3, 4], [1.0, 2, 3, 4]]
LESS = [[1.0, 2, 3, 4], [1.0, 2], [1.0, 2, 3, 4]]


@pytest.mark.parametrize(
    ("name", "rows", "errors"),
    [
        ("x", FOUR, ["", "", ""]),
        ("pixels", FOUR, ["", "", ""]),  # the only column there is
        ("x", NULL, ["", "column 'x' has no value in row 1", ""]),
        ("x", NULL[1:], ["column 'x' has no value in row 0", ""]),
        ("x", HOLE, ["", "NaN", ""]),
        ("x", LESS, ["", "SHAPE_MISMATCH", ""]),
    ],
)
def test_every_row_of_a_parquet_file_is_explained_or_told_of(
    tmp_path: Path, name: str, rows: list[Any], errors: list[str]
) -> None:
    data = tmp_path / "rows.parquet"
    kind = pyarrow.list_(pyarrow.float32())
    parquet.write_table(pyarrow.table({name: pyarrow.array(rows, kind)}), data)
    done = run(
        "batch", model(tmp_path, LINEAR), "--data", data, "--out", tmp_path / "out", "--workers", "1",
        "--method", "integrated-gradients",
    )  # fmt: skip
    assert done.exit_code == int(any(errors)), done.output
    found = table(tmp_path / "out")
    assert [line["row"] for line in found] == list(range(len(rows)))
    for line, words in zip(found, errors, strict=True):
        if words:
            assert words in line["error"]
        else:
            np.testing.assert_allclose(line["values"], [1, 2, 3, 4], rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [b"abc"] * 3}, "bytes"),
        ({"x": [{"a": 1}] * 3}, "object"),
        ({"x": [["a"] * 4] * 3}, "str"),
        ({"a": [[1.0]] * 3, "b": [[2.0]] * 3}, "no numbers, and none called 'x'"),
        ({"x": []}, "holds no samples"),
    ],
)
def test_a_parquet_file_without_samples_is_refused(
    tmp_path: Path, columns: dict[str, list[Any]], words: str
) -> None:
    data = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), data)
    done = run("batch", model(tmp_path, LINEAR), "--data", data, "--out", tmp_path / "out", "--workers", "1")
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert not files(tmp_path / "out")


def test_text_that_is_missing_is_no_text(tmp_path: Path) -> None:
    data = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"s": ["a", None, "b"]}), data)
    text = TensorInfo("s", "string", ("N", 1), 0)
    info = ModelInfo("m", 1, "READY", digest="d", opset=17, batch="dynamic", sources=(), inputs=(text,))
    source = FileSource.of(data, Picture())
    assert source.count(info) == 3
    assert [one.inputs["s"].tolist() for one in source.read(info, slice(0, 1)) if isinstance(one, Item)] == [
        [["a"]]
    ]
    first, second, third = source.read(info, slice(0, 3))
    assert isinstance(first, Item)
    assert isinstance(second, Unread)
    assert "column 's' has no value in row 1" in second.error.message
    assert isinstance(third, Item)


def test_what_is_written_into_the_folder_of_samples_is_no_other_data_set(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for k in range(2):
        np.save(data / f"{k}.npy", np.full((1, 2, 2), k, np.float32))
    asked = ("batch", model(tmp_path, LINEAR), "--data", data, "--out", data / "out", "--workers", "1")
    assert run(*asked).exit_code == 0
    assert run(*asked).exit_code == 0
    np.save(data / "1.npy", np.zeros((1, 2, 2), np.float32))
    done = run(*asked)
    assert done.exit_code == 2
    assert "another data" in done.stderr


def test_a_batch_that_is_interrupted_says_what_is_done(
    tmp_path: Path, digits_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(executor: Any, job: Any, folder: Any, shards: Any, *hearers: Any) -> Any:
        run_batch(executor, job, folder, shards[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr("onnx_attribution.server.scale.run_batch", interrupted)
    asked = ("--data", samples, "--method", "gradient", "--out", tmp_path / "out", "--workers", "1", *SIZE)
    done = run("batch", digits_path, *asked)
    assert done.exit_code == 130
    assert "2 of 3 shards are done and stay: the same command goes on with the rest" in done.stderr


@pytest.mark.parametrize(("gpus", "share"), [(0.5, 0.5), (1.0, 1.0), (2.0, 1.0), (0.0, 1.0)])
def test_actors_that_share_a_gpu_share_its_memory(digits_path: Path, gpus: float, share: float) -> None:
    place = Place(str(digits_path), None, "cpu", 1, {}, {}, file=str(digits_path))
    found: Any = _Where("ray", [place], 0, gpus, None).executor("")
    (own,) = found.open.args
    assert found.gpus == gpus
    with asking(own) as asker:
        engine: Any = asker.asked[0]
        assert engine._memory == MEMORY * share

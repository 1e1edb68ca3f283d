"""`explain --data`: samples of a folder, an npz or a parquet file, as `audit` reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.server.cli.commands import explained, model, run

pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

X = np.array([[1, 2], [3, 5], [-4, 6]], np.float32)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Returns a folder with the model 2 a and three samples, each kind of data set once."""
    model(tmp_path, "m (float[N,2] a) => (float[N,2] y) { y = Add(a, a) }")
    np.savez(tmp_path / "set.npz", a=X, labels=np.arange(3))
    parquet.write_table(pyarrow.table({"a": X.tolist(), "label": [0, 1, 0]}), tmp_path / "set.parquet")
    (tmp_path / "set").mkdir()
    for k, row in enumerate(X):
        np.save(tmp_path / "set" / f"{k}.npy", row)
    return tmp_path


@pytest.mark.parametrize("kind", ["set", "set.npz", "set.parquet"])
def test_samples_of_a_data_set_are_explained(files: Path, kind: str) -> None:
    told = explained(files / "text.onnx", "--data", files / kind, "--rows", "1:", "--target", "0")
    assert told["layers"]["a"]["sum"] == pytest.approx([6, -8])


def test_it_stands_in_the_place_of_inputs(files: Path) -> None:
    np.save(files / "x.npy", X)
    given = ["--input", str(files / "x.npy"), "--data", str(files / "set")]
    done = run("explain", files / "text.onnx", *given)
    assert done.exit_code == 2
    assert "give --input or --data" in done.stderr


@pytest.fixture
def sharing(tmp_path: Path) -> Path:
    """Returns a folder with the model s sum(x), of which all samples of a request share s, and two samples of their own
    s as a folder and as a parquet file."""
    model(tmp_path, "m (float[N,2] x, float[1] s) => (float[N,2] y) { k = Mul(x, s)  y = Relu(k) }")
    (tmp_path / "set").mkdir()
    for k in range(2):
        np.savez(tmp_path / "set" / f"{k}.npz", x=X[:1], s=np.array([k + 1], np.float32))
    table = pyarrow.table({"x": X[[0, 0]].tolist(), "s": [1.0, 2.0]})
    parquet.write_table(table, tmp_path / "set.parquet")
    return tmp_path


@pytest.mark.parametrize("kind", ["set", "set.parquet"])
def test_samples_that_differ_in_what_all_share_are_refused_together(sharing: Path, kind: str) -> None:
    done = run("explain", sharing / "text.onnx", "--data", sharing / kind, "--target", "0")
    assert done.exit_code == 2
    assert "all samples share input 's', of which '1" in done.stderr


@pytest.mark.parametrize("kind", ["set", "set.parquet"])
def test_each_of_them_is_explained_alone_with_its_own(sharing: Path, kind: str) -> None:
    told = explained(
        sharing / "text.onnx", "--data", sharing / kind, "--rows", "1", "--target", "1",
        "--method", "gradient-x-activation", "--layer", "x",
    )  # fmt: skip
    assert told["layers"]["x"]["sum"] == pytest.approx([4])


@pytest.mark.parametrize("kind", ["set", "set.parquet"])
def test_a_batch_gives_each_sample_its_own_of_what_all_share(sharing: Path, kind: str) -> None:
    out = sharing / "out"
    done = run(
        "batch", sharing / "text.onnx", "--data", sharing / kind, "--target", "1", "--method",
        "gradient-x-activation", "--layer", "x", "--out", out, "--workers", "1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert parquet.read_table(out / "parts")["sum"].to_pylist() == pytest.approx([2, 4])

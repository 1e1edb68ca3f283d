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

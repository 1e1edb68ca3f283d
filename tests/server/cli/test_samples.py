"""What a sample is: files are joined, cut and completed along the axis that is proven to be the batch, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.inputs import read_inputs, read_references
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.samples import examples
from onnx_attribution.values import Array, BatchMode, References, TensorInfo
from tests.server.cli.commands import explained, model, run

TIME_MAJOR = TensorInfo("x", "float32", ("T", "B", 3), 1)
SHARED = TensorInfo("x", "float32", ("L", 3), None)


def read(
    folder: Path,
    arrays: list[Array],
    info: TensorInfo,
    rows: slice | None = None,
    batch: BatchMode = "dynamic",
) -> Array:
    """Returns the input of files that hold these arrays."""
    for k, array in enumerate(arrays):
        np.save(folder / f"{k}.npy", array)
    given = [f"x={folder}/{k}.npy" for k in range(len(arrays))]
    return read_inputs(given, [info], Picture(), rows, batch)["x"]


@pytest.fixture
def numbers(rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns [4, 5, 3]."""
    return rng.normal(size=(4, 5, 3)).astype(np.float32)


def test_rows_files_and_single_samples_lie_along_the_batch_axis(
    numbers: NDArray[np.float32], tmp_path: Path
) -> None:
    assert np.array_equal(read(tmp_path, [numbers], TIME_MAJOR, slice(1, 3)), numbers[:, 1:3])
    assert np.array_equal(
        read(tmp_path, [numbers, numbers[:, :2]], TIME_MAJOR), np.concatenate([numbers, numbers[:, :2]], 1)
    )
    assert np.array_equal(read(tmp_path, [numbers[:, 2]], TIME_MAJOR), numbers[:, 2:3])
    assert np.array_equal(read(tmp_path, [numbers[:, 2], numbers[:, 0]], TIME_MAJOR), numbers[:, [2, 0]])


def test_an_input_without_a_batch_axis_is_never_cut_or_completed(
    numbers: NDArray[np.float32], tmp_path: Path
) -> None:
    x = numbers[0]
    for batch in ("dynamic", "single"):
        assert np.array_equal(read(tmp_path, [x], SHARED, batch=batch), x)
        assert read(tmp_path, [x[0]], SHARED, batch=batch).shape == (3,)  # the engine says what is wrong
        with pytest.raises(InvalidArgument, match=r"--rows: no axis of 'x'.*--batch-axis"):
            read(tmp_path, [x], SHARED, slice(0, 1), batch)
    with pytest.raises(InvalidArgument, match="share input 'x'"):
        read(tmp_path, [x, x], SHARED)


def test_samples_that_are_run_one_by_one_are_stacked_in_front(
    numbers: NDArray[np.float32], tmp_path: Path
) -> None:
    assert np.array_equal(read(tmp_path, [*numbers], SHARED, batch="single"), numbers)
    assert np.array_equal(read(tmp_path, [numbers], SHARED, slice(1, 3), "single"), numbers[1:3])
    fixed = TensorInfo("x", "float32", (1, 3), None)
    assert np.array_equal(read(tmp_path, [numbers[0]], fixed, slice(2, 4), "single"), numbers[0][2:4])
    assert read(tmp_path, [numbers[0, 0]], fixed, batch="single").shape == (1, 3)


def test_a_model_with_an_open_first_axis_that_is_no_batch_keeps_it(tmp_path: Path) -> None:
    """The size of x has to fit to n: neither inputs of the file's own making nor a row of x alone run."""
    text = """g (float[L] x, int64 n) => (float[N,3] y) <int64[1] ax = {0}, int64[1] k3 = {3}> {
        n1 = Unsqueeze(n, ax) s = Concat<axis = 0>(n1, k3) r = Reshape(x, s) y = Mul(r, r) }"""
    x = np.arange(6, dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "out.npz"
    explained(
        model(tmp_path, text), "--input", f"x={tmp_path}/x.npy", "--input", "n=2", "--target", "1,2",
        "--method", "gradient", "--output", out,
    )  # fmt: skip
    assert np.load(out)["x"].reshape(-1).tolist() == [0, 0, 0, 0, 0, 10]  # of x[5] squared


def test_examples_are_whole_before_they_are_cut(numbers: NDArray[np.float32]) -> None:
    infos = {
        "x": TensorInfo("x", "float32", ("N", 5, 3), None),
        "f": TensorInfo("f", "float32", (1, 3), None),
    }
    found = list(examples({"x": [numbers], "f": [numbers[0]]}, infos))
    assert [one["x"].shape for one in found] == [(4, 5, 3), (1, 5, 3)]
    assert [one["f"].shape for one in found] == [(1, 3), (1, 3)]
    assert list(examples({}, infos)) == []


@pytest.mark.parametrize(
    ("shape", "axis", "given", "per_sample"),
    [
        (("N", 3), 0, (7, 3), False),
        (("N", 3), 0, (2, 7, 3), True),
        (("T", "B", 3), 1, (7, 4, 3), False),
        (("T", "B", 3), 1, (2, 7, 4, 3), True),
        (("L", 3), None, (7, 4, 3), False),
        (("L", 3), None, (2, 7, 4, 3), True),
        ((1, 3), None, (7, 1, 3), False),
        ((1, 3), None, (7, 3), False),
        ((1, 3), None, (2, 7, 3), True),
    ],
)
def test_references_are_of_each_sample_where_there_are_two_axes_before_its_own(
    shape: tuple[int | str, ...], axis: int | None, given: tuple[int, ...], per_sample: bool, tmp_path: Path
) -> None:
    np.save(tmp_path / "r.npy", np.zeros(given, np.float32))
    info = TensorInfo("x", "float32", shape, axis)
    found = read_references([f"x={tmp_path}/r.npy"], ["x"], [info], Picture())["x"]
    assert isinstance(found, References)
    assert found.per_sample == per_sample


def test_too_many_samples_are_refused_with_the_limit_and_what_chooses_some(tmp_path: Path) -> None:
    path = model(tmp_path, "m (float[N,2] x) => (float[N,2] y) { y = Mul(x, x) }")
    np.save(tmp_path / "x.npy", np.ones((300, 2), np.float32))
    np.save(tmp_path / "r.npy", np.zeros((10, 2), np.float32))
    options = (
        "explain",
        path,
        "--input",
        tmp_path / "x.npy",
        "--target",
        "0",
        "--method",
        "integrated-gradients",
    )
    for more, rows in (((), "0:256"), (("--references", tmp_path / "r.npy"), "0:25")):
        result = run(*options, *more)
        assert result.exit_code == 2
        assert "256" in result.stderr
        assert f"--rows {rows}" in result.stderr
        assert run(*options, *more, "--rows", rows).exit_code == 0


def test_boolean_inputs_are_written_out(tmp_path: Path) -> None:
    text = "m (float[N,2] x, bool b) => (float[N,2] y) { n = Neg(x) y = Where(b, x, n) }"
    path = model(tmp_path, text)
    np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    for word, value in (("true", 1), ("False", -1), ("1", 1)):
        found = explained(
            path,
            "--input",
            f"x={tmp_path}/x.npy",
            "--input",
            f"b={word}",
            "--target",
            "0",
            "--method",
            "gradient",
        )
        assert found["target"]["value"] == [value]

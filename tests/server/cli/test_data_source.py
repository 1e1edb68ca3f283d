"""A data set that is read in parts: the same samples as at once, each bad one alone, and nothing that has changed."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.client.audit.data import Item
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.data_source import FileSource
from onnx_attribution.server.cli.dataset import read_dataset
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.scale.shards import Sample, Unread
from onnx_attribution.values import Array, ModelInfo, TensorInfo

RNG = np.random.default_rng(0)
PLAIN = TensorInfo("x", "float32", ("N", 3, 2), 0)


def model(*inputs: TensorInfo, batch: Any = "dynamic") -> ModelInfo:
    return ModelInfo("m", 1, "READY", digest=f"{inputs}", opset=17, batch=batch, sources=(), inputs=inputs)


ARRAYS: dict[str, tuple[ModelInfo, dict[str, Array]]] = {
    "labels": (model(PLAIN), {"x": RNG.random((7, 3, 2)), "labels": np.arange(7)}),
    "axis 1": (model(TensorInfo("x", "float32", (3, "N"), 1)), {"x": RNG.random((3, 7)).astype(np.float32)}),
    "fortran": (model(PLAIN), {"x": np.asfortranarray(RNG.random((7, 3, 2)))}),
    "one sample": (model(PLAIN), {"x": RNG.random((3, 2))}),
    "other name": (model(PLAIN), {"arr_0": RNG.random((7, 3, 2)), "y": np.array(list("abcdefg"))}),
    "shared": (
        model(TensorInfo("x", "float32", ("N", 3), 0), TensorInfo("w", "float32", (3,), None)),
        {"x": RNG.random((7, 3)), "w": RNG.random(3)},
    ),
    "integers": (
        model(TensorInfo("x", "int64", ("N", 3), 0)),
        {"x": RNG.integers(0, 9, (7, 3)).astype(float)},
    ),
    "one by one": (
        model(TensorInfo("x", "float32", (1, 3), None), batch="single"),
        {"x": RNG.random((7, 3))},
    ),
    "text": (model(TensorInfo("s", "string", ("N", 1), 0)), {"s": np.array([["a"], ["bb"], ["ccc"]])}),
}


def same(found: Sample, right: Item) -> bool:
    return (
        isinstance(found, Item)
        and (found.id, found.label) == (right.id, right.label)
        and found.inputs.keys() == right.inputs.keys()
        and all(
            array.dtype == right.inputs[name].dtype and np.array_equal(array, right.inputs[name])
            for name, array in found.inputs.items()
        )
    )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ARRAYS)
def test_parts_of_an_npz_are_what_it_holds_in_any_order(tmp_path: Path, kind: str, save: Any) -> None:
    info, arrays = ARRAYS[kind]
    file = tmp_path / "data.npz"
    save(file, **arrays)
    right = read_dataset(file, info, Picture(), None).items
    source = FileSource.of(file, Picture())
    assert source.count(info) == len(right)
    for first in (*range(0, len(right), 2), *reversed(range(0, len(right), 2))):
        found = source.read(info, slice(first, min(first + 2, len(right))))
        assert all(map(same, found, right[first : first + 2]))
        assert len(found) == len(right[first : first + 2])


def test_parts_of_a_parquet_file_are_what_it_holds_in_any_order(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "data.parquet"
    rows = [RNG.random(6).tolist() for _ in range(500)]
    parquet.write_table(
        pyarrow.table({"x": rows, "label": range(500), "id": [f"Ω{k}" for k in range(500)]}), file,
        row_group_size=150,
    )  # fmt: skip
    info = model(PLAIN)
    right = read_dataset(file, info, Picture(), None).items
    source = FileSource.of(file, Picture())
    assert source.count(info) == 500
    for first in (0, 64, 300, 490, 10, 128, 192, 149):
        found = source.read(info, slice(first, first + 10))
        assert all(map(same, found, right[first : first + 10]))
        assert len(found) == 10


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_not_read_whole(tmp_path: Path, save: Any) -> None:
    file = tmp_path / "large.npz"
    save(file, x=np.zeros((4000, 3, 2000), np.float32))  # 96 MB
    info = model(TensorInfo("x", "float32", ("N", 3, 2000), 0))
    source = FileSource.of(file, Picture())
    tracemalloc.start()
    try:
        source.count(info)
        source.read(info, slice(0, 64))
        source.read(info, slice(2000, 2064))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48e6  # a part takes 1.5 MB, and what is passed over 16 MB at a time


def folder(place: Path) -> Path:
    found = place / "data"
    for name in ("cat", "dog"):
        (found / name).mkdir(parents=True)
        for k in range(2):
            np.save(found / name / f"{k}.npy", np.full((3, 2), k, np.float32))
    return found


def test_one_bad_file_of_a_folder_is_one_bad_sample(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "cat" / "1.npy").write_bytes(b"no array")
    found = FileSource.of(place, Picture()).read(model(PLAIN), slice(0, 4))
    assert [one.id for one in found] == ["cat/0.npy", "cat/1.npy", "dog/0.npy", "dog/1.npy"]
    assert [one.label for one in found] == ["cat", "cat", "dog", "dog"]
    assert [isinstance(one, Unread) for one in found] == [False, True, False, False]
    assert isinstance(found[1], Unread)
    assert "cat/1.npy" in found[1].error.message


def test_files_of_a_folder_are_read_where_their_samples_are_asked_for(tmp_path: Path) -> None:
    place = folder(tmp_path)
    source, info = FileSource.of(place, Picture()), model(PLAIN)
    assert source.count(info) == 4
    (place / "dog" / "1.npy").unlink()
    assert len(source.read(info, slice(0, 3))) == 3
    with pytest.raises(InvalidArgument, match=r"dog/1\.npy' cannot be read any more"):
        source.read(info, slice(3, 4))


def grown(file: Path) -> None:
    np.save(file, np.zeros((3, 3), np.float32))


def altered(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize("harm", [grown, altered])
def test_a_file_that_changes_meanwhile_is_told_of_by_its_name(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    place = folder(tmp_path)
    source, info = FileSource.of(place, Picture()), model(PLAIN)
    source.read(info, slice(0, 4))
    harm(place / "cat" / "1.npy")
    assert len(source.read(info, slice(2, 4))) == 2
    with pytest.raises(InvalidArgument, match=r"cat/1\.npy' has changed since the batch began.*--anew"):
        source.read(info, slice(0, 2))


def test_labels_that_change_meanwhile_are_told_of(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "labels.csv").write_text("cat/0.npy,3\ndog/1.npy,4\n")
    source, info = FileSource.of(place, Picture()), model(PLAIN)
    assert [one.label for one in source.read(info, slice(0, 2))] == [3, 4]
    (place / "labels.csv").write_text("cat/0.npy,5\ndog/1.npy,4\n")
    with pytest.raises(InvalidArgument, match=r"labels\.csv' has changed"):
        source.read(info, slice(0, 2))


def test_a_file_that_is_written_again_with_the_same_bytes_has_not_changed(tmp_path: Path) -> None:
    place = folder(tmp_path)
    source, info = FileSource.of(place, Picture()), model(PLAIN)
    for file in place.rglob("*.npy"):
        os.utime(file, ns=(1, 1))  # a copy on another machine
    assert len(source.read(info, slice(0, 4))) == 4


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_one_file_of_all_samples_that_changes_meanwhile_is_told_of(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"data.{kind}"

    def write(value: float) -> None:
        x = np.full((4, 6), value, np.float32)
        if kind == "npz":
            np.savez(file, x=x)
        else:
            pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pyarrow.table({"x": list(x)}), file)

    info = model(TensorInfo("x", "float32", ("N", 6), 0))
    write(1)
    source = FileSource.of(file, Picture())
    source.read(info, slice(0, 4))
    time.sleep(0.01)
    write(2)
    with pytest.raises(InvalidArgument, match=rf"data\.{kind}' has changed"):
        source.read(info, slice(0, 4))
    assert source.digest() != FileSource.of(file, Picture()).digest()


def test_an_npz_that_is_damaged_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, x=np.ones((4, 6), np.float32))
    data = bytearray(file.read_bytes())
    data[data.index(np.float32(1).tobytes() * 3)] ^= 1
    file.write_bytes(data)
    with pytest.raises(InvalidArgument, match="the array 'x' is damaged"):
        FileSource.of(file, Picture())


def test_damage_inside_a_parquet_file_costs_the_rows_that_it_hits(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "data.parquet"
    rows = list(RNG.random((400, 6)).astype(np.float32))
    parquet.write_table(pyarrow.table({"x": rows}), file, row_group_size=200, compression="zstd")
    data = bytearray(file.read_bytes())
    begin = parquet.read_metadata(file).row_group(0).column(0).dictionary_page_offset
    data[begin : begin + 64] = bytes(64)
    file.write_bytes(data)
    source, info = FileSource.of(file, Picture()), model(PLAIN)
    assert all(isinstance(one, Unread) for one in source.read(info, slice(0, 4)))
    assert [same(one, Item(str(k), {"x": rows[k].reshape(1, 3, 2)})) for k, one in
            enumerate(source.read(info, slice(200, 204)), 200)] == [True] * 4  # fmt: skip


def test_a_row_that_cannot_be_read_keeps_its_name(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "data.parquet"
    column = pyarrow.array([[1.0] * 6, None, [2.0] * 6], pyarrow.list_(pyarrow.float32()))
    parquet.write_table(pyarrow.table({"x": column, "id": ["ä", "ö", "ü"]}), file)
    found = FileSource.of(file, Picture()).read(model(PLAIN), slice(0, 3))
    assert [(one.id, isinstance(one, Unread)) for one in found] == [("ä", False), ("ö", True), ("ü", False)]


def test_what_is_no_data_set_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.csv").touch()
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name, words in (
        ("missing", "no such file"),
        ("data.csv", "is no folder, .npz or .parquet file"),
        ("empty", "holds no samples"),
        ("torn.parquet", "cannot be read"),
        ("one.npz", "holds one array"),
    ):
        with pytest.raises(InvalidArgument, match=words) as caught:
            FileSource.of(tmp_path / name, Picture()).count(model(PLAIN))
        assert name in caught.value.message

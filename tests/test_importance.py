"""The importance record: what it holds, what of it comes back from a file, and labels that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.importance import Importance, labels_of

ALPHA = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 1.5], [0.25, 4.0, -1.0]])


def record() -> Importance:
    return Importance.of(
        "relu",
        ALPHA,
        np.array([4, 4, 1]),
        target="z",
        digest="d",
        class_names={k: f"class {k}" for k in range(6)},
    )


def test_classes_have_the_mean_and_the_standard_deviation_of_their_images() -> None:
    found = record()
    assert found.classes.tolist() == [1, 4]
    assert found.count.tolist() == [1, 2]
    np.testing.assert_array_equal(found.mean, [[0.25, 4.0, -1.0], [2.0, -1.0, 1.0]])
    np.testing.assert_array_equal(found.std, [[0, 0, 0], [1.0, 1.0, 0.5]])
    assert found.names == ("class 1", "class 4")
    assert found.row(4) == 1
    with pytest.raises(InvalidArgument, match="class 3 is not known"):
        found.row(3)


def test_a_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    here = record()
    here.save(tmp_path / "importance")  # no ending is added
    found = Importance.load(tmp_path / "importance")
    for name, value in vars(here).items():
        np.testing.assert_array_equal(getattr(found, name), value)
        assert type(getattr(found, name)) is type(value)
    assert found.alpha.dtype == here.alpha.dtype


def test_keys_of_the_file_are_the_fields(tmp_path: Path) -> None:
    record().save(tmp_path / "i.npz")
    with np.load(tmp_path / "i.npz", allow_pickle=False) as file:
        assert set(file.files) == set(vars(record()))
        assert file["alpha"].shape == (3, 3)
        assert str(file["layer"]) == "relu"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"labels": np.array([4, 4])}, "labels has shape"),
        ({"mean": np.zeros((2, 2))}, "mean has shape"),
        ({"labels": np.array([4, 4, 2])}, "a class that classes does not"),
        ({"alpha": np.zeros(3)}, "alpha is no array of floats"),
        ({"std": None}, "lacks std"),
    ],
)
def test_a_file_whose_arrays_do_not_fit_is_refused(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    arrays = {
        name: np.asarray(value) for name, value in {**vars(record()), **changed}.items() if value is not None
    }
    np.savez(tmp_path / "i.npz", **arrays)  # type: ignore[arg-type]  # its stubs have but one keyword
    with pytest.raises(InvalidArgument, match=words):
        Importance.load(tmp_path / "i.npz")


@pytest.mark.parametrize("content", [b"", b"no npz", b"PK\x03\x04broken"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "i.npz").write_bytes(content)
    with pytest.raises(InvalidArgument, match="is no importance record"):
        Importance.load(tmp_path / "i.npz")
    with pytest.raises(InvalidArgument, match="is no importance record"):
        Importance.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "given",
    [
        [2, 0, 1],
        np.array([2, 0, 1], np.uint8),
        np.array([2.0, 0.0, 1.0], np.float32),
        np.array([[2], [0], [1]]),
        np.eye(3)[[2, 0, 1]],
        np.eye(3, dtype=bool)[[2, 0, 1]],
    ],
)
def test_labels_are_indices_or_one_hot_rows(given: Any) -> None:
    found = labels_of(given, 3, 3)
    assert found.dtype == np.int64
    assert found.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([0, 1], "3 samples and 2 labels"),
        ([0, 1, 3], r"labels\[2\] is 3; the output has the classes 0 to 2"),
        ([0, -1, 2], r"labels\[1\] is -1"),
        ([0.0, 0.5, 1.0], r"labels\[1\] is 0.5"),
        ([0.0, np.nan, 1.0], r"labels\[1\] is nan"),
        (np.eye(4)[:3], "4 columns, and the output has 3 classes"),
        (np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]]), r"labels\[1\] is no one-hot row"),
        (np.full((3, 3), 1 / 3), r"labels\[0\] is no one-hot row"),
        (["a", "b", "c"], "labels are an index of a class for each sample"),
        (np.zeros((3, 2, 2)), "labels are an index of a class for each sample"),
        ([True, False, True], "not bool"),
    ],
)
def test_labels_that_are_no_classes_are_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        labels_of(given, 3, 3)

"""What is found in folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine.models.folders import scan, scan_all


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"model")


def names(path: Path) -> list[tuple[str, int]]:
    return [(served.name, served.version) for served in scan(path)]


def test_three_layouts_are_found(tmp_path: Path) -> None:
    put(
        tmp_path / "a" / "model.onnx",
        tmp_path / "b" / "1" / "model.onnx",
        tmp_path / "b" / "12" / "model.onnx",
    )
    put(tmp_path / "c.onnx", tmp_path / "d" / "other.onnx", tmp_path / "notes.txt")
    assert names(tmp_path) == [("a", 1), ("b", 1), ("b", 12), ("c", 1)]


def test_single_file_is_served_under_its_name(tmp_path: Path) -> None:
    put(tmp_path / "my net (2).onnx")
    assert names(tmp_path / "my net (2).onnx") == [("my-net-2", 1)]


@pytest.mark.parametrize("name", [".hidden", "-x", " space", "a b", "ü", "a\\b", "a" * 129])
def test_name_that_is_no_plain_word_is_left_out(tmp_path: Path, name: str) -> None:
    put(tmp_path / name / "model.onnx", tmp_path / "ok" / "model.onnx")
    assert names(tmp_path) == [("ok", 1)]


@pytest.mark.parametrize("version", ["0", "01", "-1", "1.0", "latest", "9999999999"])
def test_version_that_is_no_number_is_left_out(tmp_path: Path, version: str) -> None:
    put(tmp_path / "a" / version / "model.onnx")
    assert names(tmp_path) == []


def test_links_out_of_the_folder_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "secret.onnx", tmp_path / "served" / "ok" / "model.onnx")
    (tmp_path / "served" / "a.onnx").symlink_to(tmp_path / "secret.onnx")
    (tmp_path / "served" / "b").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "served" / "c").mkdir()
    (tmp_path / "served" / "c" / "model.onnx").symlink_to("../../secret.onnx")
    (tmp_path / "served" / "d.onnx").symlink_to("missing.onnx")
    (tmp_path / "served" / "inside.onnx").symlink_to("ok/model.onnx")
    assert names(tmp_path / "served") == [("inside", 1), ("ok", 1)]


def test_what_is_left_out_is_reported_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path / "secret.onnx", tmp_path / "served" / "ok.onnx", tmp_path / "served" / "a b.onnx")
    put(tmp_path / "served" / "v" / "latest" / "model.onnx", tmp_path / "served" / "ü" / "model.onnx")
    (tmp_path / "served" / "link.onnx").symlink_to(tmp_path / "secret.onnx")
    (tmp_path / "served" / "gone.onnx").symlink_to("missing.onnx")
    skipped: dict[str, str] = {}
    found = scan_all(
        [tmp_path / "served"],
        lambda file, why: skipped.update({str(file.relative_to(tmp_path / "served")): why}),
    )
    assert [served.name for served in found] == ["ok"]
    said = {
        "a b.onnx": "is no name",
        "ü/model.onnx": "is no name",
        "v/latest/model.onnx": "is no version",
        "link.onnx": "a link out of the folder",
        "gone.onnx": "a link to nothing",
    }
    assert skipped.keys() == said.keys()
    assert all(said[file] in why for file, why in skipped.items())


def test_same_name_and_version_twice_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.onnx", tmp_path / "a" / "1" / "model.onnx", tmp_path / "b" / "a.onnx")
    with pytest.raises(InvalidArgument, match="'a' version 1 is there twice"):
        scan(tmp_path)
    with pytest.raises(InvalidArgument, match="'a' version 1 is there twice"):
        scan_all([tmp_path / "a.onnx", tmp_path / "b"])


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no folder or file"):
        scan(tmp_path / "nothing")

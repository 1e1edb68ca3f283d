"""Whatever the form asks, the command line that is shown gives the page's numbers; both are those by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from PIL import Image

from tests.server.cli.commands import explained, model
from tests.server.web.visitor import Visitor, command_of, sums_of, visiting

pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)
X = np.array([[1, 1, 4], [2, -3, 2], [-1, -1, 8]], np.float32)
LABELS = [2, 1, 0]
ONE = np.array([[0.5, -0.5, 1]], np.float32)
SEVERAL = np.array([[0, 0, 0], [0.5, -1, 2], [1, 1, 1], [-1, -2, 3]], np.float32)
ASKED = {"method": "deeplift_rescale"}


def y(x: Any) -> NDArray[np.float64]:
    """The outputs, each of which is explained by what its own unit changes."""
    return np.maximum(np.asarray(x, np.float64) * WEIGHTS, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a model of relu(w x), and files of inputs, baselines and labelled samples."""
    place = tmp_path_factory.mktemp("shown")
    text = "m (float[N,3] x) => (float[N,3] y) { h = Mul(x, w) y = Relu(h) }"
    file = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    file.graph.initializer.append(numpy_helper.from_array(WEIGHTS, "w"))
    (place / "at").mkdir()
    onnx.save(file, place / "at" / "m.onnx")
    np.save(place / "x.npy", X)
    np.save(place / "one.npy", ONE)
    np.savez(place / "one.npz", x=ONE)
    np.save(place / "each.npy", X[::-1] / 2)
    np.save(place / "several.npy", SEVERAL)
    np.save(place / "several each.npy", np.stack([SEVERAL + k for k in range(3)]))
    np.savez(place / "set.npz", x=X, labels=np.array(LABELS))
    columns = {"x": X.tolist(), "label": LABELS}
    parquet.write_table(pyarrow.table(columns), place / "set.parquet")
    (place / "set").mkdir()
    for k, row in enumerate(X):
        np.save(place / "set" / f"{k}.npy", row[None])
    (place / "set" / "labels.csv").write_text("".join(f"{k}.npy,{LABELS[k]}\n" for k in range(3)))
    return place


@pytest.fixture(scope="module")
def visitor(folder: Path) -> Iterator[Visitor]:
    """Yields somebody who has opened the page of the model."""
    with visiting(folder / "at" / "m.onnx") as one:
        yield one


def test_numbers_are_those_of_the_command(visitor: Visitor, folder: Path) -> None:
    assert_same(visitor, folder, {"row": "2", "target": "2"}, y(X)[2, 2])


@pytest.mark.parametrize(
    ("row", "files", "fields", "wanted"),
    [
        (0, {"baseline_file": "one.npy"}, {}, y(X)[0, 2] - y(ONE)[0, 2]),
        (1, {"baseline_file": "one.npz"}, {"target": "1"}, y(X)[1, 1] - y(ONE)[0, 1]),
        (1, {"baseline_file": "each.npy"}, {"target": "1"}, y(X)[1, 1] - y(X[::-1] / 2)[1, 1]),
        (0, {"references": "several.npy"}, {"target": "2"}, y(X)[0, 2] - y(SEVERAL)[:, 2].mean()),
        (2, {"references": "several each.npy"}, {"target": "2"}, y(X)[2, 2] - y(SEVERAL + 2)[:, 2].mean()),
        (1, {}, {"target": "1", "minus": "0"}, y(X)[1, 1] - y(X)[1, 0]),
        (1, {}, {"target": "0 1 2"}, y(X)[1, 1]),
        (1, {}, {"target": "0 1 2", "minus": "1 0 0"}, y(X)[1, 1] - y(X)[1, 0]),
        (1, {}, {"target": "-2", "baseline": "-0.25"}, y(X)[1, 1] - y([-0.25] * 3)[1]),
        (1, {}, {"target": "-2", "baseline": "x=-0.25"}, y(X)[1, 1] - y([-0.25] * 3)[1]),
        (0, {"baseline_file": "one.npy"}, {"target": "0 : 3"}, y(X)[0].sum() - y(ONE).sum()),
    ],
)
def test_baselines_and_targets_are_those_of_the_command(
    visitor: Visitor, folder: Path, row: int, files: dict[str, str], fields: dict[str, str], wanted: float
) -> None:
    given = {
        field: visitor.upload(folder / name, "m.onnx", field=field)["key"] for field, name in files.items()
    }
    assert_same(visitor, folder, {"row": str(row), **given, **fields}, wanted)


def assert_same(visitor: Visitor, folder: Path, fields: dict[str, str], wanted: float) -> None:
    key = visitor.upload(folder / "x.npy", "m.onnx")["key"]
    text = visitor.final(model="m.onnx", input=key, **ASKED, **fields)
    assert sums_of(text) == pytest.approx([wanted], rel=1e-3), text
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # in which the files lie that were sent
        told = explained(*command_of(text)[1:])
    assert told["layers"]["x"]["sum"] == pytest.approx([wanted], rel=1e-5)


@pytest.mark.parametrize("kind", ["set", "set.npz", "set.parquet"])
@pytest.mark.parametrize("rows", [None, "1:", "-2:"])
def test_a_sample_of_a_data_set_is_that_of_the_command_with_its_own_label(
    folder: Path, kind: str, rows: str | None
) -> None:
    with visiting(folder / "at" / "m.onnx", data=folder / kind, rows=rows) as visitor:
        text = visitor.final(model="m.onnx", input="data", row="1", own_label="1", **ASKED)
        k = 1 if rows is None else 2
        assert sums_of(text) == pytest.approx([y(X)[k, LABELS[k]]])
        command = command_of(text)
        assert command[command.index("--target") + 1] == str(LABELS[k])
        assert explained(*command[1:])["layers"]["x"]["sum"] == pytest.approx([y(X)[k, LABELS[k]]])
        # Over the data set each unit contributes to the label of each sample alone.
        units = visitor.get("/units", model="m.onnx", layer="h", own_label="1", **ASKED).text
    rows_of = range(3)[slice(1, None)] if rows else range(3)
    means = [np.mean([y(X)[k, u] * (LABELS[k] == u) for k in rows_of]) for u in range(3)]
    for unit, mean in enumerate(means):
        row = next(part for part in units.split("<tr>") if f">unit {unit}<" in part)
        assert float(row.split("<td>")[1].partition("<")[0]) == pytest.approx(mean, abs=0.01)


def test_a_picture_is_a_baseline_and_is_brought_to_size(
    tmp_path: Path, digits_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.load(digits_path.with_name("digits.npz"))["images"]
    np.save(tmp_path / "x.npy", data[:1])
    Image.fromarray(np.full((16, 16), 51, np.uint8)).save(tmp_path / "grey.png")
    with visiting(digits_path) as visitor:
        key = visitor.upload(tmp_path / "x.npy", "digits.onnx")["key"]
        baseline = visitor.upload(tmp_path / "grey.png", "digits.onnx", field="baseline_file")["key"]
        fields = {"input": key, "target": "7", "method": "deeplift_rescale"}
        text = visitor.final(model="digits.onnx", baseline_file=baseline, **fields)
        same = visitor.final(model="digits.onnx", baseline="0.2", **fields)
    assert sums_of(text) == sums_of(same)  # 51 of 255
    assert "grey.png, where the target is" in text
    command = command_of(text)
    assert command[-2:] == ["--method", "deeplift-rescale"] or "--resize" in command
    monkeypatch.chdir(tmp_path)
    assert explained(*command[1:])["layers"]["image"]["sum"] == pytest.approx(sums_of(text), rel=1e-3)


def test_a_file_with_a_baseline_for_each_input_is_taken_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = model(tmp_path, "m (float[N,2] a, float[N,2] b) => (float[N,2] y) { y = Add(a, b) }")
    np.savez(tmp_path / "in.npz", a=np.ones((1, 2), np.float32), b=np.full((1, 2), 2, np.float32))
    np.savez(tmp_path / "from.npz", a=np.full((1, 2), 0.5, np.float32), b=np.zeros((1, 2), np.float32))
    with visiting(file) as visitor:
        key = visitor.upload(tmp_path / "in.npz", "text.onnx")["key"]
        baseline = visitor.upload(tmp_path / "from.npz", "text.onnx", field="baseline_file")["key"]
        asked = {"model": "text.onnx", "input": key, "target": "1", **ASKED}
        text = visitor.final(**asked, baseline_file=baseline)
        assert sums_of(visitor.final(**asked, baseline="a=0.25 b=1")) == pytest.approx([0.75, 1])
    assert sums_of(text) == pytest.approx([0.5, 2])
    monkeypatch.chdir(tmp_path)
    told = explained(*command_of(text)[1:])
    assert [told["layers"][name]["sum"][0] for name in "ab"] == pytest.approx([0.5, 2])


def test_a_baseline_of_a_file_is_compared_with_a_number(visitor: Visitor, folder: Path) -> None:
    key = visitor.upload(folder / "x.npy", "m.onnx")["key"]
    baseline = visitor.upload(folder / "one.npy", "m.onnx", field="baseline_file")["key"]
    asked = {
        "model": "m.onnx",
        "input": key,
        "target": "2",
        "baseline_file": baseline,
        "b.baseline": "0",
        **ASKED,
    }
    assert "baseline one.npy" in visitor.get("/explain", **asked).text
    assert sums_of(visitor.final(**asked, side=0)) == pytest.approx([y(X)[0, 2] - y(ONE)[0, 2]])
    assert sums_of(visitor.final(**asked, side=1)) == pytest.approx([y(X)[0, 2]])
    saved = visitor.get("/export", **asked).text
    assert sums_of(saved) == pytest.approx([y(X)[0, 2] - y(ONE)[0, 2], y(X)[0, 2]])
    assert "--baseline one.npy" in saved


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"target": "0 1"}, "target says 2 for 3 samples"),
        ({"own_label": "1"}, "no label"),
        ({"own_label": "1", "target": "1"}, "not both"),
        ({"minus": "@/etc/passwd"}, "names a file"),
        ({"baseline": "x=/etc/passwd"}, "is no number"),
        ({"baseline": "one.npy"}, "is no number"),
        ({"baseline": "'1"}, "quotation mark"),
        ({"baseline_file": "0123456789abcdef"}, "not here any more"),
        ({"references": "beside:../x.npy"}, "no file"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    visitor: Visitor, folder: Path, fields: dict[str, str], word: str
) -> None:
    key = visitor.upload(folder / "x.npy", "m.onnx")["key"]
    kind, told = visitor.events(model="m.onnx", input=key, **ASKED, **fields)[-1]
    assert kind == "refused"
    assert word in told["html"].replace("&#39;", "'")


def test_two_files_of_one_name_are_said_to_need_another(
    visitor: Visitor, folder: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", ONE)
    key = visitor.upload(folder / "x.npy", "m.onnx")["key"]
    asked = {"model": "m.onnx", "input": key, "target": "2", **ASKED}
    other = visitor.upload(tmp_path / "x.npy", "m.onnx", field="baseline_file")["key"]
    assert "two of the files are called" in visitor.final(**asked, baseline_file=other)
    same = visitor.upload(folder / "x.npy", "m.onnx", field="baseline_file")["key"]
    assert "two of the files are called" not in visitor.final(**asked, baseline_file=same)

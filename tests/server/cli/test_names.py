"""`names`: units are called by the attribute that they stand for, and shown so wherever a table of names is given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_attribution.client.niwt.unit_names import UnitNames, read_names
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.graph_tools.programs.heads import model_of
from tests.server.cli.commands import run

CLASSES = 16
ATTRIBUTES = ("striped", "hooves", "wings", "large")
TEXT = "net (float[N,6] x) => (float[N,16] y) { h = Relu (x) y = Gemm <transB=1> (h, w, b) }"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a network whose first four units speak for one attribute each, and the last two for none."""
    folder = tmp_path_factory.mktemp("names")
    random = np.random.default_rng(11)
    attributes = np.stack([np.arange(CLASSES) >> k & 1 for k in range(4)], axis=1)
    weights = np.concatenate([2.0 * attributes - 1, 0.2 * random.normal(size=(CLASSES, 2))], axis=1)
    constants = {"w": weights.astype(np.float32), "b": np.zeros(CLASSES, np.float32)}
    onnx.save(model_of(TEXT, constants), folder / "net.onnx")
    rows = "\n".join(f"c{k},{k},{','.join(map(str, row))}" for k, row in enumerate(attributes))
    (folder / "classes.csv").write_text(f"class,seen,{','.join(ATTRIBUTES)}\n{rows}\n")
    images = random.uniform(0.5, 1, size=(2 * CLASSES, 6)).astype(np.float32)
    np.savez(folder / "images.npz", x=images, labels=np.arange(2 * CLASSES) % CLASSES)
    done = run(
        "importance", folder / "net.onnx", "--layer", "h", "--data", folder / "images.npz",
        "-o", folder / "importance.npz",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def given(folder: Path) -> list[str | Path]:
    return ["--layer", "h", "--importance", folder / "importance.npz", "--classes", folder / "classes.csv"]


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with Engine(provider="cpu", threads=2) as engine:
        engine.add("net", folder / "net.onnx")
        with app.background(engine, Settings(port=0)) as (address, _):
            yield address


@pytest.fixture(scope="module")
def names(folder: Path) -> UnitNames:
    done = run("names", folder / "net.onnx", *given(folder), "-o", folder / "names.csv")
    assert done.exit_code == 0, done.output
    assert "h: 4 of 6 units have a name above chance" in done.stdout
    return read_names(folder / "names.csv")


def test_units_have_the_names_of_what_they_stand_for_and_noise_has_none(names: UnitNames) -> None:
    assert names.of("h") == dict(enumerate(ATTRIBUTES))
    assert len(names.all) == 6


def test_a_server_gives_the_same_names(folder: Path, address: str, names: UnitNames) -> None:
    done = run("names", "net", "--server", address, *given(folder), "-o", folder / "served.csv")
    assert done.exit_code == 0, done.output
    assert read_names(folder / "served.csv") == names


@pytest.mark.parametrize("where", ["file", "server"])
def test_a_prediction_is_explained_by_the_attributes_of_its_class(
    folder: Path, address: str, where: str
) -> None:
    place: list[str | Path] = [folder / "net.onnx"] if where == "file" else ["net", "--server", address]
    images = f"{folder / 'images.npz'}:x"
    done = run(
        "names", *place, *given(folder), "--input", images, "--rows", "0:1", "--target", "10", "--json"
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (one,) = told["predictions"]
    assert (one["sample"], one["target"]) == (0, "10")
    assert {name: value > 0 for name, value in one["attributes"].items()} == {
        "striped": False, "hooves": True, "wings": False, "large": True,
    }  # fmt: skip
    assert "fewer than 20" in told["warnings"][0]


def test_names_are_shown_by_layers_and_explanations(folder: Path, names: UnitNames) -> None:
    table: list[str | Path] = ["--names", folder / "names.csv"]
    done = run("layers", folder / "net.onnx", *table)
    assert "0 striped, 1 hooves, 2 wings, 3 large" in done.stdout
    told = json.loads(run("layers", folder / "net.onnx", *table, "--json").stdout)
    assert told["layers"][1]["names"] == {"0": "striped", "1": "hooves", "2": "wings", "3": "large"}
    image = f"{folder / 'images.npz'}:x[0]"
    ask: list[str | Path] = [
        "explain",
        folder / "net.onnx",
        "--input",
        image,
        "--layer",
        "h",
        "--target",
        "10",
        *table,
    ]
    done = run(*ask)
    assert "y[10], sample 0, units of h: " in done.stdout
    told = json.loads(run(*ask, "--json").stdout)
    assert told["layers"]["h"]["names"]["2"] == "wings"
    assert "names" not in json.loads(run(*ask[:-2], "--json").stdout)["layers"]["h"]


def test_names_of_another_file_are_told_of_wherever_they_are_shown(folder: Path, names: UnitNames) -> None:
    model = onnx.load(folder / "net.onnx")
    model.producer_name = "another"
    onnx.save(model, folder / "other.onnx")
    image = f"{folder / 'images.npz'}:x[0]"
    asked: list[list[str | Path]] = [
        ["layers", folder / "other.onnx"],
        ["explain", folder / "other.onnx", "--input", image, "--layer", "h", "--json"],
    ]
    for ask in asked:
        done = run(*ask, "--names", folder / "names.csv")
        assert done.exit_code == 0, done.output
        assert "names.csv names units of another model" in done.stdout + done.stderr
        ask[1] = folder / "net.onnx"
        done = run(*ask, "--names", folder / "names.csv")
        assert "another model" not in done.stdout + done.stderr


@pytest.mark.parametrize("where", ["file", "server"])
@pytest.mark.parametrize("layer", ["body.act", "act", "h", "/body/act/Relu", "Relu"])
def test_the_layer_has_the_names_that_it_has_elsewhere(
    tmp_path: Path, folder: Path, where: str, layer: str
) -> None:
    model = onnx.load(folder / "net.onnx")
    model.graph.node[0].name = "/body/act/Relu"
    model.graph.node[0].metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'body', 'body.act', 'relu']"
    )
    onnx.save(model, tmp_path / "net.onnx")
    with Engine(provider="cpu", threads=2) as engine:
        engine.add("net", tmp_path / "net.onnx")
        with app.background(engine, Settings(port=0)) as (address, _):
            place: list[str | Path] = (
                ["net", "--server", address] if where == "server" else [tmp_path / "net.onnx"]
            )
            data: list[str | Path] = ["--data", folder / "images.npz", "-o", tmp_path / "importance.npz"]
            done = run("importance", *place, "--layer", layer, *data)
            assert done.exit_code == 0, done.output
            rest: list[str | Path] = [
                "--importance",
                tmp_path / "importance.npz",
                "--classes",
                folder / "classes.csv",
            ]
            done = run("names", *place, "--layer", layer, *rest)
            assert done.exit_code == 0, done.output
            assert "h: 4 of 6 units have a name above chance" in done.stdout
            done = run("names", *place, "--layer", "y", *rest)
    assert done.exit_code == 2
    assert "is of the layer 'h', not of 'y'" in done.stderr


def test_a_picture_says_which_named_units_contribute(folder: Path, names: UnitNames) -> None:
    pytest.importorskip("matplotlib")
    image = f"{folder / 'images.npz'}:x[0]"
    picture = folder / "map.svg"
    done = run(
        "explain", folder / "net.onnx", "--input", image, "--layer", "h", "--target", "10",
        "--names", folder / "names.csv", "--plot", picture,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "units: " in picture.read_text()


def test_the_report_of_an_audit_calls_channels_by_their_names(folder: Path, names: UnitNames) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("pyarrow")
    done = run(
        "audit", folder / "net.onnx", "--data", folder / "images.npz", "--rows", "0:3", "--methods", "neuron-ig",
        "--checks", "none", "--layer", "h", "--names", folder / "names.csv", "--out", folder / "audit",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    units = json.loads((folder / "audit" / "report.json").read_text())["neurons"]["layers"]["h"]
    assert {one["channel"]: one.get("name") for one in units if one["channel"] < 4} == dict(
        enumerate(ATTRIBUTES)
    )
    assert "(wings)" in (folder / "audit" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layer", "x"], "is of the layer 'h', not of 'x'"),
        (["--classes", "two.csv"], "have 2 classes in common; three at least are needed"),
        (["--importance", "no.npz"], "is no importance record"),
        (["--classes", "no.csv"], "'no.csv' cannot be read as a table: No such file or directory"),
        (["-o", "no/such/names.csv"], "cannot be written"),
        (["-o", "two.csv", "--classes", "two.csv"], "--output 'two.csv' is the file of --classes"),
        (["--layer", ""], "no tensor or node ''; close names"),
        (["--classes", "far.csv"], "class 'z' has the output index 16; the network's go from 0 to 15"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_what_cannot_be_named_is_refused(
    folder: Path, options: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "two.csv").write_text("class,seen,a\nx,0,1\ny,1,0\n")
    (folder / "far.csv").write_text("class,seen,a\nx,0,1\ny,1,0\nv,2,0\nz,16,1\n")
    done = run("names", folder / "net.onnx", *given(folder), *options)
    assert done.exit_code == 2
    assert words in done.stderr
    assert (folder / "two.csv").read_text().startswith("class,seen,a")


def test_the_layer_may_be_a_glob_and_not_any_last_letters(folder: Path) -> None:
    assert run("names", folder / "net.onnx", *given(folder), "--layer", "[gh]").exit_code == 0
    constants = {
        w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(folder / "net.onnx").graph.initializer
    }
    text = TEXT.replace("h = Relu", "layer_h = Relu").replace("(h, w", "(layer_h, w")
    onnx.save(model_of(text, constants), folder / "long.onnx")
    data: list[str | Path] = ["--data", folder / "images.npz", "-o", folder / "long.npz"]
    assert run("importance", folder / "long.onnx", "--layer", "layer_h", *data).exit_code == 0
    for layer, right in (("layer_h", True), ("h", True), ("yer_h", False), ("_h", True)):
        done = run(
            "names", folder / "long.onnx", "--importance", folder / "long.npz", "--classes", folder / "classes.csv",
            "--layer", layer,
        )  # fmt: skip
        assert (done.exit_code == 0) == right, layer


def test_a_table_of_names_that_is_none_is_refused(folder: Path) -> None:
    done = run("layers", folder / "net.onnx", "--names", folder / "classes.csv")
    assert done.exit_code == 2
    assert "classes.csv is no table of names" in done.stderr

"""`audit` judges methods over a data set: what it finds, writes, keeps when it is killed, and says by its status."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_attribution.client.audit.compare import moved_mass
from onnx_attribution.client.audit.report import SCHEMA
from onnx_attribution.client.audit.requirements import LOCATED, MEASURED
from onnx_attribution.server.app import background
from onnx_attribution.server.cli.audit import without_secrets
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.client.audit import planted
from tests.server.cli.commands import model, run

for needed in ("jinja2", "pyarrow", "scipy", "skimage"):
    pytest.importorskip(needed)
Data = tuple[NDArray[np.float32], NDArray[np.int64]]
METHODS = "gradient,deeplift-rescale,guided-backprop"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, digits_data: Data) -> Path:
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, image=digits_data[0][:5], labels=digits_data[1][:5])
    return path


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, digits_path: Path, samples: Path) -> Path:
    """Returns the folder of an audit of the digits."""
    out = tmp_path_factory.mktemp("audit")
    done = run("audit", digits_path, "--data", samples, "--methods", METHODS, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_the_report_has_the_form_of_its_schema(audited: Path) -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(report(audited))


def test_metrics_of_the_report_are_those_that_can_be_required(audited: Path) -> None:
    names = {name for one in report(audited)["methods"].values() for name in one["metrics"]}
    assert names == set(MEASURED) - set(LOCATED)  # which need masks


def test_a_method_that_keeps_positive_gradients_fails_and_the_page_begins_with_that(audited: Path) -> None:
    found = report(audited)["methods"]
    assert found["guided_backprop"]["verdict"]["word"] == "fails"
    assert found["deeplift_rescale"]["verdict"]["word"] == "passes"
    assert list(found)[-1] == "guided_backprop"
    page = (audited / "report.html").read_text()
    first = re.sub(r"<[^>]+>", "", page[page.index("<body>") : page.index("<table")])
    assert re.search(r"Fail a check.*: guided_backprop\.", first)
    assert "compliance" not in page.lower()


def test_numbers_of_the_report_are_those_of_explain(
    audited: Path, digits_path: Path, samples: Path, tmp_path: Path
) -> None:
    from pyarrow import parquet

    out = tmp_path / "one.npz"
    done = run(
        "explain",
        digits_path,
        "--input",
        f"{samples}:image[3]",
        "--method",
        "deeplift-rescale",
        "--output",
        out,
    )
    assert done.exit_code == 0, done.output
    rows = parquet.read_table(audited / "attributions.parquet").to_pylist()
    (own,) = [
        one for one in rows if (one["item"], one["method"], one["layer"]) == (3, "deeplift_rescale", "image")
    ]
    with np.load(out) as arrays:
        np.testing.assert_allclose(np.reshape(own["values"], own["shape"]), arrays["image"][0], atol=1e-5)
    assert own["sum"] == pytest.approx(own["value"] - own["baseline_value"], rel=1e-4)
    assert own["label"] == own["predicted"]
    hidden = [one for one in rows if one["item"] == 3 and one["layer"] == "conv2"]
    assert hidden
    assert all(one["values"] is None for one in hidden)


def test_the_page_holds_all_that_it_shows(audited: Path) -> None:
    from PIL import Image

    page = (audited / "report.html").read_text()
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert not re.search(r"<(script|link rel=.stylesheet|iframe)", page)
    sources = re.findall(r'<img[^>]* src="([^"]*)"', page)
    assert len(sources) > 50
    for source in sources:
        kind, _, data = source.partition(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    for part in (
        "verdicts",
        "samples",
        "randomised",
        "convergence",
        "ablation",
        "flow",
        "neurons",
        "evidence",
    ):
        assert f'<section id="{part}">' in page


def test_an_audit_that_is_killed_goes_on_where_it_was(
    tmp_path: Path, digits_path: Path, samples: Path, audited: Path
) -> None:
    out = tmp_path / "audit"
    command = [sys.executable, "-m", "onnx_attribution.server.cli", "audit", str(digits_path), "--data", str(samples),
               "--methods", METHODS, "--checks", "classes", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while len(list((out / "state").glob("item-*.npz"))) < 2 and time.monotonic() < end:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in (out / "state").glob("*.npz")}
    assert len(before) >= 2
    assert not (out / "report.json").exists()
    given: list[str | Path] = ["--data", samples, "--methods", METHODS, "--checks", "classes", "--out", out]
    done = run("audit", digits_path, *given)
    assert done.exit_code == 0, done.output
    assert (
        before.items()
        <= {path.name: path.stat().st_mtime_ns for path in (out / "state").glob("*.npz")}.items()
    )
    whole, again = report(audited)["methods"], report(out)["methods"]
    for name, one in again.items():
        assert "random_logit_spearman" in one["metrics"]
        for metric, numbers in one["metrics"].items():
            expected = whole[name]["metrics"][metric]["value"]
            assert numbers["value"] == pytest.approx(expected, abs=1e-4), metric


def test_the_state_of_another_audit_is_not_gone_on_with(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    given: list[str | Path] = [
        "audit",
        digits_path,
        "--data",
        samples,
        "--rows",
        "0:2",
        "--checks",
        "none",
        "--out",
        tmp_path / "out",
    ]
    assert run(*given, "--methods", "gradient").exit_code == 0
    other = run(*given, "--methods", "smoothgrad")
    assert other.exit_code == 2
    assert "another methods: --anew" in other.stderr
    assert run(*given, "--methods", "smoothgrad", "--anew").exit_code == 0


def test_a_requirement_that_is_not_met_is_status_4(tmp_path: Path, digits_path: Path, samples: Path) -> None:
    given: list[str | Path] = [
        "audit",
        digits_path,
        "--data",
        samples,
        "--rows",
        "0:2",
        "--checks",
        "none",
        "--out",
        tmp_path / "out",
        "--methods",
        "deeplift-rescale,gradient",
    ]
    assert run(*given, "--require", "completeness<=0.01").exit_code == 0
    unmet = run(*given, "--require", "deeplift-rescale.completeness<=1e-30")
    assert unmet.exit_code == 4
    assert "not met: deeplift-rescale.completeness<=1e-30" in unmet.stderr
    assert run(*given, "--require", "gradient.completeness<=1").exit_code == 4  # it has no such number
    assert not report(tmp_path / "out")["requirements"][0]["met"]
    assert run(*given, "--require", "deletion<1").exit_code == 4  # the check was not asked for
    assert run(*given, "--require", "completenes<1").exit_code == 2
    assert run(*given, "--require", "completeness").exit_code == 2
    assert run(*given, "--require", "lrp.completeness<1").exit_code == 2


def test_a_model_is_compared_with_another_version(tmp_path: Path, digits_path: Path, samples: Path) -> None:
    old = onnx.load(digits_path)
    for one in old.graph.initializer:  # 8 bits
        values = numpy_helper.to_array(one)
        if values.dtype == np.float32 and values.ndim > 1:
            step = np.abs(values).max() / 127
            one.CopyFrom(
                numpy_helper.from_array((np.round(values / step) * step).astype(np.float32), one.name)
            )
    onnx.save(old, tmp_path / "old.onnx")
    given: list[str | Path] = [
        "audit",
        digits_path,
        "--data",
        samples,
        "--rows",
        "0:3",
        "--checks",
        "none",
        "--methods",
        "deeplift-rescale",
    ]
    for other, out in ((tmp_path / "old.onnx", "changed"), (digits_path, "same")):
        assert run(*given, "--compare", other, "--out", tmp_path / out).exit_code == 0
    same, changed = (report(tmp_path / out)["compare"] for out in ("same", "changed"))
    assert {one["layer"] for one in changed["lines"]} >= {"image", "conv1", "conv2"}
    assert changed["agreement"] == same["agreement"] == 1
    for one, other in zip(same["lines"], changed["lines"], strict=True):
        assert one["moved"]["value"] == pytest.approx(0, abs=1e-6)  # float32
        assert one["spearman"]["value"] == pytest.approx(1)
        assert 0 < other["moved"]["value"] < 0.2
    assert "Compared with" in (tmp_path / "changed" / "report.html").read_text()


def test_behind_a_final_activation_its_logit_is_explained_unless_the_output_is_asked_for(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    model = onnx.load(digits_path)
    (logits,) = (one.name for one in model.graph.output)
    model.graph.node.append(onnx.helper.make_node("LogSoftmax", [logits], ["chances"], axis=-1))
    model.graph.output[0].name = "chances"
    onnx.save(model, tmp_path / "chances.onnx")
    given = ["--data", str(samples), "--rows", "0:1", "--checks", "none", "--methods", "gradient"]
    told = []
    for out, more in (("logit", []), ("output", ["--no-logit"])):
        done = run("audit", tmp_path / "chances.onnx", *given, *more, "--out", tmp_path / out)
        assert done.exit_code == 0, done.output
        told.append(report(tmp_path / out)["items"][0]["methods"]["gradient"]["target"]["tensor"])
    assert told == [logits, "chances"]


def test_a_target_that_rises_as_all_is_removed_does_not_turn_verdicts_round(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    out = tmp_path / "audit"
    given = ["--data", str(samples), "--target", "1", "--checks", "ablation", "--methods", "deeplift-rescale"]
    assert run("audit", digits_path, *given, "--out", out).exit_code == 0
    found = report(out)
    items = found["items"]
    changes = [one["methods"]["deeplift_rescale"]["target"] for one in items]
    assert any(one["value"] < one["baseline_value"] for one in changes)
    curves = found["ablation"]["curves"]
    areas = {one["title"].split()[0]: {n: m["area"] for n, m in one["methods"].items()} for one in curves[:2]}
    assert 0 <= areas["deletion"]["deeplift_rescale"] < areas["deletion"]["random"] <= 1
    assert 1 >= areas["insertion"]["deeplift_rescale"] > areas["insertion"]["random"] >= 0


def test_a_served_model_is_audited_but_for_its_weights(
    tmp_path: Path, digits_path: Path, samples: Path, audited: Path
) -> None:
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _):
            done = run(
                "audit", "digits", "--server", address, "--data", samples, "--methods", METHODS, "--rows", "0:2",
                "--checks", "classes,randomisation,ablation", "--out", tmp_path / "out",
            )  # fmt: skip
    assert done.exit_code == 0, done.output
    found, local = report(tmp_path / "out"), report(audited)
    assert "with the server" in found["skipped"]["randomisation"]
    for mine, its in zip(local["items"][:2], found["items"], strict=True):
        for name, one in its["methods"].items():
            expected = mine["methods"][name]["layers"]["image"]["sum"]
            assert one["layers"]["image"]["sum"] == pytest.approx(expected, rel=1e-4)
    assert found["model"]["digest"] == local["model"]["digest"]
    assert len(found["ablation"]["curves"]) == 4


def test_moved_mass_is_nothing_for_a_factor_and_all_for_what_shares_nothing() -> None:
    one = np.array([1.0, -3.0, 0.0, 0.0])
    assert moved_mass(one, 7 * one) == pytest.approx(0)
    assert moved_mass(one, np.array([0.0, 0.0, 2.0, 5.0])) == pytest.approx(1)
    assert moved_mass(one, -one) == pytest.approx(1)
    assert moved_mass(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == pytest.approx(0.5)


def test_a_planted_model_puts_the_methods_that_see_it_first(tmp_path: Path) -> None:
    """One corner decides; `layer_activation` shows the image itself, whatever the model does."""
    onnx.save(planted.shortcut(), tmp_path / "planted.onnx")
    np.savez(tmp_path / "x.npz", image=planted.corners(6))
    out = tmp_path / "out"
    done = run(
        "audit", tmp_path / "planted.onnx", "--data", tmp_path / "x.npz", "--out", out, "--methods",
        "layer-activation,deeplift-rescale,gradient-x-activation", "--checks", "classes,randomisation",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = report(out)["methods"]
    assert list(found)[-1] == "layer_activation"
    assert [one["verdict"]["word"] for one in found.values()] == ["passes", "passes", "fails"]
    page = (out / "report.html").read_text()
    first = re.sub(r"<[^>]+>", "", page[page.index("<body>") : page.index("<table")])
    assert "Pass every check on this model: deeplift_rescale, gradient_x_activation." in first
    assert "Fail a check, and say little of this model: layer_activation." in first


def test_a_folder_of_pictures_has_the_labels_of_its_table(
    tmp_path: Path, digits_path: Path, digits_data: Data
) -> None:
    from PIL import Image

    folder = tmp_path / "digits"
    folder.mkdir()
    lines = ["file,label"]
    for k in range(3):
        pixels = np.rint(digits_data[0][k, 0] * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        lines.append(f"{k}.png,{digits_data[1][k]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    given: list[str | Path] = [
        "audit",
        digits_path,
        "--data",
        folder,
        "--methods",
        "gradient",
        "--checks",
        "none",
        "--out",
    ]
    assert run(*given, tmp_path / "out").exit_code == 0
    found = report(tmp_path / "out")
    assert [one["id"] for one in found["items"]] == ["0.png", "1.png", "2.png"]
    assert [one["label"] for one in found["items"]] == digits_data[1][:3].tolist()
    assert found["data"]["accuracy"] == 1
    assert run(*given, tmp_path / "labelled", "--target", "label").exit_code == 0


def test_a_table_has_features_that_the_page_names(tmp_path: Path, rng: np.random.Generator) -> None:
    import pyarrow
    from pyarrow import parquet

    file = model(
        tmp_path,
        """m (float[N,3] x) => (float[N,2] y) <float[3,2] w = {1, -1, 2, 0, -3, 1}> {
        y = MatMul(x, w) }""",
    )
    x = rng.normal(size=(5, 3))
    columns = {"age": x[:, 0], "<i>income": x[:, 1], "height": x[:, 2], "label": np.array([0, 1, 0, 1, 0])}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    out = tmp_path / "out"
    done = run(
        "audit", file, "--data", tmp_path / "x.parquet", "--methods", "gradient-x-activation", "--checks", "none",
        "--target", "0", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    page = (out / "report.html").read_text()
    assert "&lt;i&gt;income = " in page
    assert "<i>income" not in page
    rows = parquet.read_table(out / "attributions.parquet").to_pylist()
    np.testing.assert_allclose(rows[0]["values"], x[0] * [1, 2, -3], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "gradien"], "gradient"),
        (["--methods", "gradient", "--parameter", "neuron_ig.steps=3"], "neuron_ig is not audited"),
        (["--methods", "neuron-ig", "--parameter", "neuron_ig.step=3"], "has no step"),
        (["--methods", "gradient", "--checks", "luck"], "no check 'luck'"),
        (["--methods", "gradient", "--data", "nowhere.npz"], "no such file"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: list[str], said: str, tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    given = ["--data", samples, *options] if "--data" not in options else options
    done = run("audit", digits_path, *given, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert said in done.stderr


def test_the_command_in_the_report_holds_no_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    for form in (["--token", "s3cret"], ["--token=s3cret"]):
        assert "s3cret" not in " ".join(without_secrets(["audit", *form, "--seed", "3"]))
        assert without_secrets(["audit", *form, "--seed", "3"])[-2:] == ["--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["onnx-attribution", "audit", "--token", "s3cret"])
    given = ["--data", str(samples), "--rows", "0:1", "--checks", "none", "--methods", "gradient"]
    assert run("audit", digits_path, *given, "--out", tmp_path).exit_code == 0
    assert all(b"s3cret" not in (tmp_path / name).read_bytes() for name in ("report.json", "report.html"))


def test_an_audit_without_any_answer_is_no_success(tmp_path: Path, digits_path: Path, samples: Path) -> None:
    given = ["--data", str(samples), "--rows", "0:1", "--checks", "classes", "--methods", "gradient"]
    done = run("audit", digits_path, *given, "--target", "77", "--out", tmp_path)
    assert done.exit_code == 1
    assert "no method has an answer" in done.stderr


def test_the_explained_class_is_never_among_the_others(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    """Whichever class is explained, a map beside its own would be wholly alike."""
    with np.load(samples) as arrays:
        images = arrays["image"][:2]
    given = ["--data", str(samples), "--rows", "0:2", "--methods", "gradient", "--checks", "classes"]
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)
        (name,) = engine.predict("digits", {"image": images})
        scores = engine.predict("digits", {"image": images})[name]
    for k in (0, 1, -1):  # the first sample's most likely class, its second, and its least likely
        index = int(np.argsort(-scores[0], kind="stable")[k])
        out = tmp_path / str(k)
        assert run("audit", digits_path, *given, "--target", str(index), "--out", out).exit_code == 0
        for one in report(out)["classes"]["items"]:
            assert all(one["gradient"][word]["spearman"] < 0.999 for word in ("next", "least"))

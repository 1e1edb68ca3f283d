"""What an audit costs: said before, kept within a budget, and less where a method refines its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from scipy.stats import spearmanr

from onnx_attribution.client.audit.run import COARSE, FINE, duration
from onnx_attribution.client.audit.trials.likeness import ELEMENTS, JUDGED, alike
from onnx_attribution.methods import NeuronIG
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.server.cli.commands import run

for needed in ("jinja2", "pyarrow", "scipy", "skimage"):
    pytest.importorskip(needed)
WIDTH, DEPTH, SAMPLES = 12, 4, 6


def network(folder: Path, *, positive: bool) -> Path:
    """Returns a network of layers of one width, whose weights have one sign or both."""
    rng = np.random.default_rng(1)
    nodes = " ".join(f"m{k} = MatMul (r{k}, w{k}) r{k + 1} = Relu (m{k})" for k in range(DEPTH))
    text = f"net (float[N, {WIDTH}] r0) => (float[N, {WIDTH}] r{DEPTH}) {{ {nodes} }}"
    made = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> {text}')
    for k in range(DEPTH):
        drawn = rng.normal(0, 0.6, (WIDTH, WIDTH)).astype(np.float32)
        made.graph.initializer.append(numpy_helper.from_array(np.abs(drawn) if positive else drawn, f"w{k}"))
    onnx.save(made, folder / "net.onnx")
    np.savez(folder / "x.npz", r0=rng.uniform(0.2, 1, (SAMPLES, WIDTH)).astype(np.float32))
    return folder / "net.onnx"


def audited(file: Path, *more: str | Path) -> tuple[dict[str, Any], str]:
    """Returns the report, and what was said."""
    out = file.parent / "out"
    done = run("audit", file, "--data", file.parent / "x.npz", "--out", out, *more)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found, done.stderr


@pytest.mark.parametrize("positive", [True, False])
def test_relevance_through_weights_of_one_sign_forgets_where_it_began(
    tmp_path: Path, *, positive: bool
) -> None:
    file = network(tmp_path, positive=positive)
    methods = ("--methods", "gradient,integrated-gradients", "--layer", "m1", "--layer", "m2")
    found, _ = audited(file, *methods, "--checks", "convergence")
    told = found["convergence"]
    assert told["layers"] == ["m2", "m1", "r0"]
    assert told["samples"] == SAMPLES
    assert told["methods"].keys() == {"gradient"}  # what sums over a path carries no relevance
    curve = [told["methods"]["gradient"][layer]["value"] for layer in told["layers"]]
    assert (curve[-1] > 0.99) == positive
    assert curve[-1] == pytest.approx(found["methods"]["gradient"]["metrics"]["convergence"]["value"])
    assert "convergence" not in found["methods"]["integrated_gradients"]["metrics"]
    assert '<section id="convergence">' in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_check_beyond_the_budget_is_named_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    file = network(tmp_path, positive=False)
    given = ("--methods", "gradient", "--checks", "classes,perturbations")
    poor, said = audited(file, *given, "--budget", "0")
    assert poor["skipped"].keys() == {"classes", "perturbations"}
    assert all("--budget leaves" in why for why in poor["skipped"].values())
    assert "in all: samples" in said
    assert "the check classes is left out: it would take about" in said
    assert poor["methods"]["gradient"]["metrics"] == {}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "What was left out" in page
    rich, _ = audited(file, *given, "--budget", "60")
    assert rich["skipped"] == {}
    assert {"random_logit_spearman", "max_sensitivity"} <= rich["methods"]["gradient"]["metrics"].keys()


def test_checks_compare_coarse_maps_with_coarse_ones_where_a_method_refines_far(
    tmp_path: Path, digits_path: Path, digits_data: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    np.savez(tmp_path / "x.npz", image=digits_data[0][:1])
    (tmp_path / "digits.onnx").write_bytes(digits_path.read_bytes())
    given = ("--methods", "neuron-ig,gradient", "--checks", "classes")
    found, _ = audited(tmp_path / "digits.onnx", *given)
    (item,) = found["items"]
    assert item["methods"]["neuron_ig"]["steps"] > FINE
    words = [any("maps of 32 steps" in text for text in one["warnings"]) for one in found["methods"].values()]
    assert dict(zip(found["methods"], words, strict=True)) == {
        "neuron_ig": True,
        "gradient": False,
    }
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("digits", digits_path)
        inputs = {"image": digits_data[0][:1]}
        (scores,) = engine.predict("digits", inputs).values()
        maps = []
        for index in np.argsort(-scores[0])[:2]:
            method = NeuronIG(steps=COARSE)
            request = AttributionRequest("digits", inputs, method, target=Target(None, int(index)))
            maps.append(engine.attribute(request).layers["image"].values.ravel())
    expected = spearmanr(*maps).statistic
    own = found["classes"]["items"][0]["neuron_ig"]["next"]["spearman"]
    assert own == pytest.approx(expected, abs=1e-3)  # float32 sums: equal ranks may change places
    exact, _ = audited(tmp_path / "digits.onnx", *given, "--anew", "--parameter", "neuron_ig.steps=128")
    assert not any("maps of" in text for one in exact["methods"].values() for text in one["warnings"])


def test_a_time_is_said_in_the_unit_that_fits() -> None:
    assert [duration(seconds) for seconds in (0.1, 12, 200, 9000)] == ["1 s", "12 s", "3 min", "2.5 h"]


def test_of_large_maps_only_what_is_judged_is_measured() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.normal(size=(2, 1, 1, ELEMENTS + 8))
    found = alike({"x": one}, {"x": one + other})
    assert found["spearman"] == pytest.approx(spearmanr(one.ravel(), (one + other).ravel()).statistic)
    assert {name for name, value in found.items() if value is not None} == set(JUDGED)
    small, its = (each.ravel()[:400].reshape(1, 1, 20, 20) for each in (one, other))
    assert None not in alike({"x": small}, {"x": its}).values()

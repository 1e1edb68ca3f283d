"""Methods that see what decides a planted model rank above maps that do not, by every metric that can tell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.audit.checks import check
from onnx_attribution.client.audit.verdict import Verdicts
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, LayerAttribution
from tests.client.audit import planted

SAMPLES = 10
SEEING = {
    "gradient_x_activation": "gradient_x_activation",
    "integrated_gradients": "integrated_gradients",
    "deeplift_rescale": "deeplift_rescale",
}


class WithEdges:
    """An engine with one method more, which shows the edges of the image: it is the same for every model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def attribute(self, request: AttributionRequest, *, advise: bool = True) -> Attribution:
        if request.method.name != "layer_activation":  # stands for it: what it answers is not looked at
            return self._engine.attribute(request, advise=advise)
        answer = self._engine.attribute(request.changed(method="gradient"), advise=advise)
        (layer,) = answer.layers.values()
        values = planted.edges(np.asarray(request.inputs["image"], np.float32))
        own = LayerAttribution(
            layer.name, values, layer.sum, layer.residual, layer.error_estimate, True, layer.spread
        )
        return Attribution(**{**vars(answer), "layers": {layer.name: own}})


METHODS = {**SEEING, "edges": "layer_activation"}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(threads=1) as engine:
        engine.add("one channel", planted.one_channel())
        engine.add("shortcut", planted.shortcut())
        yield engine


def judged(engine: Engine, model: str, images: planted.Images, masks: NDArray[np.bool_]) -> Verdicts:
    checks = "classes,randomisation,perturbations,localisation"
    found = check(WithEdges(engine), model, METHODS, {"image": images}, masks=masks, checks=checks)
    assert not found.skipped
    assert not found.errors
    return found.verdicts


@pytest.fixture(scope="module")
def on_one_channel(engine: Engine) -> Verdicts:
    return judged(engine, "one channel", planted.colours(SAMPLES), planted.channel_mask(SAMPLES))


@pytest.fixture(scope="module")
def on_shortcut(engine: Engine) -> Verdicts:
    return judged(engine, "shortcut", planted.corners(SAMPLES), planted.corner_mask(SAMPLES))


@pytest.mark.parametrize("which", ["on_one_channel", "on_shortcut"])
def test_methods_that_see_what_decides_are_above_the_one_that_does_not(
    which: str, request: pytest.FixtureRequest
) -> None:
    found: Verdicts = request.getfixturevalue(which)
    assert found.methods[-1].method == "edges"
    assert found.method("edges").word == "fails"
    assert {found.method(name).word for name in SEEING} == {"passes"}


@pytest.mark.parametrize("which", ["on_one_channel", "on_shortcut"])
def test_each_metric_puts_the_blind_method_last_with_an_interval_of_its_own(
    which: str, request: pytest.FixtureRequest
) -> None:
    found: Verdicts = request.getfixturevalue(which)
    telling = {"model_parameter_randomisation", "infidelity", "pointing_game", "relevance_mass_accuracy"}
    for finding in found.method("edges").findings:
        if finding.metric in telling and finding.detail in ("", "spearman"):
            assert finding.rank.low == finding.rank.of == len(METHODS), finding
            telling.remove(finding.metric)
    assert not telling


def test_the_map_of_a_method_that_sees_lies_in_the_channel_that_decides(on_one_channel: Verdicts) -> None:
    for method in SEEING:
        (mass,) = [f for f in on_one_channel.method(method).findings if f.metric == "relevance_mass_accuracy"]
        assert mass.interval.low == pytest.approx(1.0)
        assert mass.random is not None
        assert mass.random.high < 0.5


def test_one_channel_decides(engine: Engine) -> None:
    images = planted.colours(4)
    before = engine.predict("one channel", {"image": images})["logits"]
    other = images.copy()
    other[:, [0, 2]] = 0
    np.testing.assert_array_equal(engine.predict("one channel", {"image": other})["logits"], before)
    other[:, 1] = 0
    assert not engine.predict("one channel", {"image": other})["logits"].any()


def test_the_corner_decides(engine: Engine) -> None:
    images = planted.corners(20)

    def logits(of: planted.Images) -> NDArray[np.float64]:
        return np.asarray(engine.predict("shortcut", {"image": of})["logits"], np.float64)

    before = logits(images)
    assert (before.argmax(axis=1) == 0).all()
    without = np.where(planted.corner_mask(20), np.float32(0), images)
    only = np.where(planted.corner_mask(20), images, np.float32(0))
    moved = logits(without) - before
    kept = logits(only) - before
    assert np.abs(kept).max() < 0.3 * np.abs(moved).min()


def test_models_check(engine: Engine) -> None:
    for model in (planted.one_channel(), planted.shortcut()):
        onnx.checker.check_model(model, full_check=True)

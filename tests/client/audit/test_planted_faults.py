"""An audit tells faults that are planted into right answers: credit that is a little too large, or of another place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.audit.checks import check
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Array, Attribution, AttributionRequest

Data = tuple[NDArray[np.float32], NDArray[np.int64]]
HONEST, LYING = "deeplift_rescale", "deeplift_reveal_cancel"


class Liar:
    """An engine whose answers by one method have other maps, while what it says of them stays."""

    def __init__(self, engine: Engine, change: Callable[[Array], Array]) -> None:
        self._engine, self._change = engine, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def attribute(self, request: AttributionRequest, **options: bool) -> Attribution:
        found = self._engine.attribute(request, **options)
        if request.method.name != LYING:
            return found
        layers = {name: replace(one, values=self._change(one.values)) for name, one in found.layers.items()}
        return replace(found, layers=layers)


@pytest.fixture(scope="module")
def engine(digits_path: Any) -> Iterator[Engine]:
    with Engine(provider="cpu", threads=2) as made:
        made.add("digits", digits_path)
        yield made


def means(asked: Any, images: Array, checks: str, metric: str) -> dict[str, float]:
    """Returns the mean of a metric by method."""
    found = check(asked, "digits", [HONEST, LYING], {"image": images}, checks=checks)
    return {
        one.method: next(f.interval.value for f in one.findings if f.metric == metric)
        for one in found.verdicts.methods
    }


def test_maps_that_are_half_a_per_mille_too_large_do_not_sum_to_the_change(
    engine: Engine, digits_data: Data
) -> None:
    images = digits_data[0][:3]
    honest = means(engine, images, "none", "completeness")
    planted = means(Liar(engine, lambda values: np.multiply(values, 1.0005)), images, "none", "completeness")
    assert max(planted[HONEST], honest[LYING]) < 1e-5
    assert planted[LYING] == pytest.approx(5e-4, rel=0.02)


def test_credit_of_another_place_foretells_worse_what_its_removal_changes(
    engine: Engine, digits_data: Data
) -> None:
    images = digits_data[0][:6]
    for metric in ("infidelity", "insertion_area"):
        checks = {"infidelity": "perturbations", "insertion_area": "ablation"}[metric]
        honest = means(engine, images, checks, metric)
        planted = means(Liar(engine, lambda values: np.roll(values, 3, axis=-1)), images, checks, metric)
        worse = planted[LYING] - honest[LYING]
        assert (worse if metric == "infidelity" else -worse) > 0.1, metric

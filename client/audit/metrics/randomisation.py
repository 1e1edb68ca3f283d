"""Whether a map depends on what was learnt: the same class explained with parameters drawn anew, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Inputs, Maps
from onnx_attribution.client.audit.metrics.metric import Metric, declared, flat, mean_of_known
from onnx_attribution.client.audit.metrics.sensitivity import compared
from onnx_attribution.client.audit.metrics.similarity import NAMES, Channels
from onnx_attribution.client.audit.subject import Classes, Subject
from onnx_attribution.errors import AttributionError
from onnx_attribution.methods import Method

Order = Literal["cascading", "independent"]
Draw = Literal["he_normal", "truncated_normal", "shuffle"]
Methods = Mapping[str, Method | str]
"""Methods by the names under which they are told apart."""

MODEL_PARAMETER_RANDOMISATION = declared(
    Metric(
        "model_parameter_randomisation",
        "lower",
        "randomisation",
        "the similarity of the maps of one class before and after parameters are drawn anew, from the top down "
        "(cascading) or block by block (independent), and its mean over the blocks",
        "arXiv 1810.03292",
        chance="goal",
        quantus="MPRT",
    )
)


@dataclass(frozen=True)
class StageScores:
    """One stage: the block that was drawn anew in it, and by method and similarity a number for each sample.

    `failures`: methods that have no map there, and why.
    """

    block: str
    similarity: Mapping[str, Mapping[str, Floats]]
    failures: Mapping[str, str]


@dataclass(frozen=True)
class Randomisation:
    """A whole randomisation, the top block first. `originals` are the maps of the trained model, by method."""

    order: Order
    draw: Draw
    seed: int
    stages: tuple[StageScores, ...]
    originals: Mapping[str, Maps]

    def scores(self, method: str, similarity: str) -> Floats:
        """The mean over the stages that have a number, for each sample."""
        return mean_of_known(self.curve(method, similarity))

    def curve(self, method: str, similarity: str) -> Floats:
        """`[stages, samples]`."""
        return np.stack([stage.similarity[method][similarity] for stage in self.stages])


def model_parameter_randomisation(
    subject: Subject,
    methods: Methods,
    inputs: Inputs,
    classes: Classes,
    *,
    order: Order = "cascading",
    draw: Draw = "he_normal",
    seed: int = 0,
    most: int | None = None,
    names: Sequence[str] = NAMES,
    channels: Mapping[str, Channels] | Channels = "sum",
    percentile: float = 100.0,
    originals: Mapping[str, Maps] | None = None,
    report: Callable[[str, str], None] = lambda block, method: None,
) -> Randomisation:
    """MODEL_PARAMETER_RANDOMISATION of several methods, for which each stage is made once.

    The classes are those of the trained model throughout. At most `most` blocks are drawn anew, neighbours together;
    `names` are the similarities. `originals` are maps that are there already; `report` is told of each stage and method
    as it begins.

    Raises:
        InvalidArgument: the model is served, or its weights are quantised and `draw` is not "shuffle". ModelError: it
            has no parameters.
    """
    before = {
        name: dict(originals[name])
        if originals and name in originals
        else subject.maps(method, inputs, classes)
        for name, method in methods.items()
    }
    toward = _toward(subject)
    samples = len(next(iter(next(iter(before.values())).values())))
    found: list[StageScores] = []
    with subject.randomised(order=order, draw=draw, seed=seed, most=most, toward=toward) as stages:
        for stage in stages:
            similarity: dict[str, Mapping[str, Floats]] = {}
            failures: dict[str, str] = {}
            for name, method in methods.items():
                report(stage.block, name)
                own = channels if isinstance(channels, str) else channels.get(name, "sum")
                try:
                    after = subject.named(stage.name).maps(method, inputs, classes)
                    similarity[name] = compared(
                        before[name], after, names=names, channels=own, percentile=percentile
                    )
                except AttributionError as error:
                    failures[name] = str(error)
                    similarity[name] = dict.fromkeys(names, np.full(samples, np.nan))
            found.append(StageScores(stage.block, similarity, failures))
    return Randomisation(order, draw, seed, tuple(found), before)


def permuted(maps: Maps, *, seed: int = 0) -> Maps:
    """Random maps that hold the numbers of these: each sample's in another order, those of all sources together."""
    rng = np.random.default_rng(seed)
    whole = np.stack([rng.permutation(row) for row in flat(maps)])
    found, first = {}, 0
    for name, values in maps.items():
        size = math.prod(values.shape[1:])
        found[name] = whole[:, first : first + size].reshape(values.shape)
        first += size
    return found


def _toward(subject: Subject) -> Sequence[str]:
    target = subject.target if subject.target is not None else subject.output
    return () if target is None else (target,)

"""All metrics over several methods and one batch of inputs, with their verdicts: what an audit of a model runs.

with Engine() as engine:
    engine.add("digits", "digits.onnx")
    found = check(Subject(engine, "digits"), ["gradient", "integrated_gradients"], {"image": images})
    print(to_json(found.verdicts))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Floats, Inputs, Maps
from onnx_attribution.client.audit.metrics import (
    complexity,
    convergence,
    faithfulness,
    localisation,
    randomisation,
    sensitivity,
)
from onnx_attribution.client.audit.metrics.randomisation import Draw, Order, Randomisation, permuted
from onnx_attribution.client.audit.metrics.similarity import Channels
from onnx_attribution.client.audit.subject import Classes, Subject
from onnx_attribution.client.audit.verdict import Finding, Verdicts, findings, verdicts
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.methods import Method
from onnx_attribution.values import Array, Attribution

DECIDING = "spearman"
"""The similarity whose finding counts in a verdict; the others are told beside it."""


@dataclass(frozen=True)
class Settings:
    """How the metrics are run. Everything drawn has the `seed`.

    `orders`, `draw` and `most` are those of the randomisation: at most so many blocks. `channels` says by method, or
    for all, how a picture is made of channels, and `percentile` where its magnitudes are cut. `removals` squares, whose
    sides are a `share` of the axes, go to the baseline for infidelity. `moves` of up to `radius` times each source's
    range (largest less smallest number) for sensitivity. `pairs` of random
    vectors are carried back for convergence. `contributions` says by method whether its attributions are
    multiplied by the inputs, where its parameters do not tell.
    """

    seed: int = 0
    orders: tuple[Order, ...] = ("cascading",)
    draw: Draw = "he_normal"
    most: int | None = 12
    channels: Mapping[str, Channels] | Channels = "sum"
    percentile: float = 100.0
    removals: int = 32
    share: float = 0.25
    moves: int = 5
    radius: float = 0.02
    pairs: int = 2
    contributions: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """The numbers of one metric: by method one for each sample, and those of random maps where these mean something.
    `detail` tells its variants apart."""

    metric: str
    detail: str
    by_method: Mapping[str, Floats]
    random: Mapping[str, Floats] | None = None


@dataclass(frozen=True)
class Checked:
    """What was found: the verdicts, what they are made of, and what was left out and why.

    `answers` are the attributions of the explained classes, by method.
    """

    verdicts: Verdicts
    scores: tuple[Score, ...]
    randomisations: tuple[Randomisation, ...]
    answers: Mapping[str, Attribution]
    classes: Classes
    settings: Settings
    notes: tuple[str, ...]

    def score(self, metric: str, detail: str = "") -> Score:
        """The numbers of one metric."""
        return next(one for one in self.scores if (one.metric, one.detail) == (metric, detail))


def check(
    subject: Subject,
    methods: Sequence[Method | str] | Mapping[str, Method | str],
    inputs: Inputs,
    *,
    classes: Classes = None,
    masks: NDArray[np.bool_] | None = None,
    settings: Settings | None = None,
    report: Callable[[str, str], None] = lambda step, method: None,
) -> Checked:
    """Runs every metric that the subject allows on all methods and inputs.

    The classes are those that the model predicts, unless they are given. `masks` say for each sample where the reason
    lies, in the shape of its map. `report` is told of each step and method as it begins. A method that has no answer is
    left out, and a metric that cannot be; both are in the notes.

    Raises:
        InvalidArgument: no method has an answer, or the inputs cannot be explained.
    """
    run = _Run(subject, _named(methods), inputs, masks, settings or Settings(), report)
    return run.all(subject.classes(inputs) if classes is None else classes)


class _Run:
    def __init__(
        self,
        subject: Subject,
        methods: Mapping[str, Method | str],
        inputs: Inputs,
        masks: NDArray[np.bool_] | None,
        settings: Settings,
        report: Callable[[str, str], None],
    ) -> None:
        self._subject, self._methods, self._inputs, self._masks = subject, dict(methods), inputs, masks
        self._settings, self._report = settings, report
        self._notes: list[str] = []
        self._answers: dict[str, Attribution] = {}
        self._maps: dict[str, Maps] = {}
        self._chance: dict[str, Maps] = {}
        self._runs: list[Randomisation] = []

    def all(self, classes: Classes) -> Checked:
        self._explain(classes)
        steps: Mapping[str, Callable[[Classes], Iterator[Score]]] = {
            "randomisation": self._randomisation,
            "other classes": self._other_classes,
            "convergence": self._convergence,
            "infidelity": self._infidelity,
            "completeness": self._completeness,
            "robustness": self._robustness,
            "complexity": self._complexity,
            "localisation": self._localisation,
        }
        scores: list[Score] = []
        for name, step in steps.items():
            try:
                scores += step(classes)
            except AttributionError as error:
                self._notes.append(f"{name} is left out: {error}")
        found = [
            one
            for score in scores
            for one in findings(
                score.metric, score.by_method, score.random, detail=score.detail, seed=self._settings.seed
            )
        ]
        samples = len(next(iter(next(iter(self._maps.values())).values())))
        judged = verdicts(found, samples, seed=self._settings.seed, decides=_decides)
        return Checked(
            judged,
            tuple(scores),
            tuple(self._runs),
            self._answers,
            classes,
            self._settings,
            tuple(self._notes),
        )

    def _explain(self, classes: Classes) -> None:
        failure: AttributionError | None = None
        for name, method in self._methods.items():
            self._report("explain", name)
            try:
                answer = self._subject.attribute(method, self._inputs, classes)
                maps = {n: np.asarray(one.values, np.float64) for n, one in answer.layers.items()}
                if not all(np.isfinite(one).all() for one in maps.values()):
                    raise InvalidArgument("its attributions are not all finite")
            except AttributionError as error:
                failure = error
                self._notes.append(f"{name} is left out: {error}")
                continue
            self._answers[name], self._maps[name] = answer, maps
            self._chance[name] = permuted(maps, seed=self._settings.seed)
        if not self._maps:
            raise failure or InvalidArgument("there is no method to check")

    def _randomisation(self, classes: Classes) -> Iterator[Score]:
        own = self._settings
        methods = {name: self._methods[name] for name in self._maps}
        for order in own.orders:
            found = randomisation.model_parameter_randomisation(
                self._subject, methods, self._inputs, classes, order=order, draw=own.draw, seed=own.seed,
                most=own.most, channels=own.channels, percentile=own.percentile, originals=self._maps,
                report=lambda block, name: self._report(f"randomise {block}", name),
            )  # fmt: skip
            self._runs.append(found)
            self._notes += [
                f"{name} has no map where {stage.block} is drawn anew: {why}"
                for stage in found.stages
                for name, why in stage.failures.items()
            ]
            yield from self._alike(
                randomisation.MODEL_PARAMETER_RANDOMISATION.name,
                order,
                {
                    name: {s: found.scores(name, s) for s in found.stages[0].similarity[name]}
                    for name in methods
                },
            )

    def _other_classes(self, classes: Classes) -> Iterator[Score]:
        scores = self._subject.scores(self._inputs)
        if classes is None:
            self._notes.append("other classes are left out: the model has one number")
            return
        unit = scores.shape[1:]
        rows = scores.reshape(len(scores), -1)
        for word, least in (("random class", False), ("least likely class", True)):
            drawn = sensitivity.other_classes(rows, least_likely=least, seed=self._settings.seed)
            index = [tuple(int(i) for i in np.unravel_index(k, unit)) for k in drawn]
            other: Classes = [one[0] if len(one) == 1 else one for one in index]
            found = {}
            for name in self._maps:
                self._report(word, name)
                maps = self._subject.maps(self._methods[name], self._inputs, other)
                found[name] = self._compared(name, maps)
            yield from self._alike(sensitivity.RANDOM_LOGIT.name, word, found)

    def _convergence(self, classes: Classes) -> Iterator[Score]:
        if classes is None:
            return  # one number, from which every relevance begins alike
        found = {}
        for name in self._maps:
            self._report(convergence.CONVERGENCE.name, name)
            try:
                own = convergence.convergence(
                    self._subject, self._methods[name], self._inputs, layers=None,
                    pairs=self._settings.pairs, seed=self._settings.seed,
                )  # fmt: skip
            except AttributionError as error:
                self._notes.append(f"convergence of {name} is left out: {error}")
                continue
            found[name] = np.asarray(np.mean(list(own.values()), axis=0))
        if found:
            yield Score(convergence.CONVERGENCE.name, "", found)

    def _alike(self, metric: str, variant: str, found: Mapping[str, Mapping[str, Floats]]) -> Iterator[Score]:
        """One score for each similarity, beside that of random maps."""
        chance = {name: self._compared(name, self._chance[name]) for name in found}
        for similarity in next(iter(found.values())):
            yield Score(
                metric,
                f"{variant}, {similarity}",
                {name: one[similarity] for name, one in found.items()},
                {name: one[similarity] for name, one in chance.items()},
            )

    def _compared(self, name: str, maps: Maps) -> dict[str, Floats]:
        own = self._settings
        channels = own.channels if isinstance(own.channels, str) else own.channels.get(name, "sum")
        return sensitivity.compared(self._maps[name], maps, channels=channels, percentile=own.percentile)

    def _infidelity(self, classes: Classes) -> Iterator[Score]:
        own, sources = self._settings, self._sources()
        baselines = {n: _number(n, b) for n, b in self._subject.baselines.items() if n in sources}
        forward, known = self._subject.forward(classes), self._subject.asked.methods()
        found: list[dict[str, Floats]] = [{}, {}]
        for name, own_maps in self._of_inputs("infidelity").items():
            self._report("infidelity", name)
            contributions = own.contributions.get(name)
            if contributions is None:
                contributions = faithfulness.is_multiplied(self._methods[name], known)
            perturb = faithfulness.removed_squares(
                tuple(own_maps), baselines, share=own.share, contributions=contributions
            )
            for scores, maps in zip(found, (self._maps, self._chance), strict=True):
                scores[name] = faithfulness.infidelity(
                    forward, self._inputs, maps[name], perturb,
                    count=own.removals, normalize=True, seed=own.seed,
                )  # fmt: skip
        if found[0]:
            yield Score(faithfulness.INFIDELITY.name, "", *found)

    def _completeness(self, classes: Classes) -> Iterator[Score]:
        del classes
        sums = {one.name for one in self._subject.asked.methods() if one.sums_to == "F(x) - F(x')"}
        found = {}
        for name, answer in self._answers.items():
            if answer.method in sums and len(answer.layers) == 1:
                change = answer.target.value - answer.target.baseline_value
                found[name] = faithfulness.completeness(self._maps[name], change)
        if found:
            yield Score(faithfulness.COMPLETENESS.name, "", found)

    def _robustness(self, classes: Classes) -> Iterator[Score]:
        own, sources = self._settings, self._sources()
        spans = {n: float(np.ptp(np.asarray(self._inputs[n], np.float64))) or 1.0 for n in sources}

        def move(inputs: Inputs, rng: np.random.Generator) -> Inputs:
            moved = dict(inputs)
            for name in sources:
                moved.update(sensitivity.within((name,), own.radius * spans[name])(moved, rng))
            return moved

        for metric, function in (
            (sensitivity.MAX_SENSITIVITY, sensitivity.max_sensitivity),
            (sensitivity.LOCAL_LIPSCHITZ_ESTIMATE, sensitivity.local_lipschitz_estimate),
        ):
            found = {}
            for name in self._maps:
                self._report(metric.name, name)
                explain = self._subject.explaining(self._methods[name], classes)
                found[name] = function(explain, self._inputs, move, count=own.moves, seed=own.seed)
            yield Score(metric.name, "", found)

    def _complexity(self, classes: Classes) -> Iterator[Score]:
        del classes
        for metric, function in (
            (complexity.SPARSENESS, complexity.sparseness),
            (complexity.COMPLEXITY, complexity.complexity),
            (complexity.EFFECTIVE_COMPLEXITY, complexity.effective_complexity),
        ):
            yield Score(metric.name, "", {name: function(maps) for name, maps in self._maps.items()})

    def _localisation(self, classes: Classes) -> Iterator[Score]:
        del classes
        if self._masks is None:
            return
        placed = self._of_inputs("localisation")
        several = [name for name, maps in placed.items() if len(maps) > 1]
        if several:
            raise InvalidArgument(f"masks belong to one input, and {several[0]} has maps of several")
        if not placed:
            return
        for metric, function in (
            (localisation.POINTING_GAME, localisation.pointing_game),
            (localisation.ATTRIBUTION_LOCALISATION, localisation.attribution_localisation),
            (localisation.RELEVANCE_MASS_ACCURACY, localisation.relevance_mass_accuracy),
            (localisation.RELEVANCE_RANK_ACCURACY, localisation.relevance_rank_accuracy),
            (localisation.INTERSECTION_OVER_UNION, localisation.intersection_over_union),
        ):
            own, random = (
                {name: function(next(iter(each[name].values())), self._masks) for name in placed}
                for each in (self._maps, self._chance)
            )
            yield Score(metric.name, "", own, random)

    def _sources(self) -> tuple[str, ...]:
        """The inputs that are moved: those of floats that are sources, or all of floats where none is."""
        floats = [name for name, one in self._inputs.items() if np.asarray(one).dtype.kind == "f"]
        if not floats:
            raise InvalidArgument("there is no input of floats to move")
        known = set(self._subject.source or self._subject.info().sources)
        return tuple(name for name in floats if name in known) or tuple(floats)

    def _of_inputs(self, step: str) -> dict[str, Maps]:
        """The maps that lie on the inputs; a note for each other one."""
        sources, found = self._sources(), {}
        for name, maps in self._maps.items():
            if all(n in sources and one.shape == np.shape(self._inputs[n]) for n, one in maps.items()):
                found[name] = maps
            else:
                self._notes.append(f"{step} of {name} is left out: its map is of {', '.join(maps)}, no input")
        return found


def _decides(one: Finding) -> bool:
    """Of a metric with similarities only the signed ranks decide."""
    return not one.detail or one.detail.endswith(f", {DECIDING}")


def _named(methods: Sequence[Method | str] | Mapping[str, Method | str]) -> Mapping[str, Method | str]:
    if isinstance(methods, Mapping):
        return methods
    found: dict[str, Method | str] = {}
    for one in methods:
        name = one if isinstance(one, str) else one.name
        if name in found:
            raise InvalidArgument(
                f"two methods are called {name!r}: give them by names of their own", parameter="methods"
            )
        found[name] = one
    return found


def _number(name: str, baseline: object) -> float | Array:
    if isinstance(baseline, int | float | np.ndarray):
        return baseline
    raise InvalidArgument(f"the baseline of {name!r} is no number and no array")

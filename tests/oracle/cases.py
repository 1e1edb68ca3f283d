"""Peers' expected numbers as questions to our engine: one case becomes one or more requests.

The file's format is described beside it. Captum's `LayerConductance` is our `neuron_ig`, its `NeuronX` the method X at
the input with a hidden target, its `LayerIntegratedGradients` our `integrated_gradients` with the layer as the source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_attribution.methods import (
    DeconvNet,
    Gradient,
    GuidedBackprop,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, References, Target
from tests.checks import to_double
from tests.oracle import parameters
from tests.oracle.file import METHODS, Json, inner_of, model_of, oracle
from tests.oracle.nested import Floats, Nested, array, index_of

MULTIPLIERS = (Gradient, GuidedBackprop, DeconvNet)
"""What is never multiplied by a difference."""


@dataclass(frozen=True)
class Call:
    """One call of a peer's method: what we ask, and how our layers stand in the peer's result."""

    request: AttributionRequest
    places: Nested
    factor: float = 1.0
    absolute: bool = False
    distribution: bool = False
    drawn: int = 0
    copies: int = 1

    @property
    def scattered(self) -> float:
        """By how many times our error estimate the library's numbers may differ; 0: they are not random.

        It has `drawn` draws: four standard errors of its mean, of which ours is one with our number of draws.
        """
        ours = self.request.method.parameters().get("draws", 0)
        return 4 * math.sqrt(ours / self.drawn) if self.drawn else 0.0

    def samples(self) -> list[Call]:
        """The call, or one for each sample where the samples have groups of their own."""
        groups = self.request.method.parameters().get("groups", {})
        ranks = {n: np.asarray(self.request.inputs[n]).ndim for n in groups}
        own = [n for n, a in groups.items() if a.ndim == ranks[n] and len(a) > 1]
        if not own:
            return [self]
        request = self.request
        return [
            replace(
                self,
                request=request.changed(
                    inputs={n: a[k : k + 1] for n, a in request.inputs.items()},
                    groups={n: a[k : k + 1] if n in own else a for n, a in groups.items()},
                    baselines={
                        n: b[k : k + 1] if isinstance(b, np.ndarray) and len(b) > 1 else b
                        for n, b in request.baselines.items()
                    },
                ),
            )
            for k in range(len(request.inputs[own[0]]))
        ]

    def requests(self) -> list[AttributionRequest]:
        """What the sum to the change is seen from: the request, or for a distribution of references one for each of
        them; of squares and variances over noise, their mean."""
        method = self.request.method
        if isinstance(method, SmoothGradSquared | VarGrad):
            return [self.request.changed(method=SmoothGrad(**method.parameters()))]
        if not self.distribution:
            return [self.request]
        given = {n: np.asarray(b) for n, b in self.request.baselines.items()}
        count = max(len(b) for b in given.values())
        return [
            replace(self.request, baselines={n: b[k : k + 1] for n, b in given.items()}) for k in range(count)
        ]

    def whole(self) -> AttributionRequest:
        """One request, for a distribution with all references."""
        if not self.distribution:
            return self.request
        several = {n: References(np.asarray(b)) for n, b in self.request.baselines.items()}
        return replace(self.request, baselines=several)

    def result(self, answer: Attribution) -> Nested:
        """The attributions in the peer's nesting."""
        return self._at(answer, self.places)

    @property
    def multiplied(self) -> bool:
        """Whether the attributions are multiplied by the difference to the baseline."""
        method = self.request.method
        return bool(method.parameters().get("multiply_by_inputs", not isinstance(method, MULTIPLIERS)))

    @property
    def name(self) -> str:
        """What kundajelab's library calls the result."""
        return "contributions" if self.multiplied else "multipliers"

    def _at(self, answer: Attribution, place: Nested) -> Nested:
        if isinstance(place, list):
            return [self._at(answer, part) for part in place]
        values = answer.layers[place].values.astype(np.float64) * self.factor
        return np.abs(values) if self.absolute else values


def call_of(side: Json, *, multiply: bool | None = None) -> Call:
    """The call of a case or of one side of an equivalence."""
    method, options, inner = side["method"], side.get("options") or {}, inner_of(side)
    spec = oracle()["models"][side["model"]]["spec"]
    kinds = {i["name"]: i["dtype"] for i in spec["inputs"]}
    given = {**side["inputs"], **(side.get("aux_inputs") or {})}
    sources, tensors = list(side["inputs"]), (side.get("layer") or {}).get("onnx_tensors")
    places: Nested = _only(sources)
    layers: list[str] = []
    integers = METHODS[inner] == "occlusion"  # which a target may hold there, if it is named
    target = Target(spec["outputs"][0] if integers else None, index_of(side.get("target")))
    if method.startswith("Neuron") and method != "NeuronConductance":
        assert tensors is not None
        target = Target(tensor=tensors[0], index=parameters.selected(side, tensors[0]))
    elif tensors is not None and method != "NeuronConductance":
        places = [_only(t) if isinstance(t, list) else t for t in tensors]
        places = _only(places)
        layers = list(_leaves(places))
    if method == "GuidedGradCam":  # of which the file says no layer: what conv1 makes, or what relu1 takes
        layers = ["conv1_out"]
    return Call(
        AttributionRequest(
            model=side["model"],
            inputs={name: array(value).astype(kinds[name]) for name, value in given.items()},
            method=options.get("nt_type", METHODS[method]),
            layers=layers,
            source=layers if method in ("LayerIntegratedGradients", "LayerGradientShap") else sources,
            target=target,
            baselines=parameters.baselines(side),
            steps=options.get("n_steps", 50),
            quadrature=options.get("method", "gausslegendre"),
            multiply_by_inputs=parameters.multiplies(side) if multiply is None else multiply,
            **parameters.features(sources, options),
            **parameters.draws(side),
            **parameters.neuron(side),
            **{name: options[name] for name in parameters.MAPS if name in options},
            **parameters.rules_of(side),
        ),
        places,
        factor=2.0 if "custom_attribution_func" in options else 1.0,
        absolute=method == "Saliency" and options.get("abs", True),
        distribution=method.endswith("DeepLiftShap"),
        drawn=parameters.drawn(side),
        copies=options.get("nt_samples", 1),
    )


def _only(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else list(parts)


def _leaves(place: Nested) -> Iterator[str]:
    if isinstance(place, list):
        for part in place:
            yield from _leaves(part)
    else:
        yield place


class Asker:
    """An engine that knows the file's models, each added when it is first asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._added: set[str] = set()

    def __call__(self, call: Call, *, double: bool = False) -> Attribution:
        """The answer; of samples that are asked one by one, in one."""
        return joined([self._asked(one, [one.whole()], double)[0] for one in call.samples()])

    def each(self, call: Call, *, double: bool = False) -> list[Attribution]:
        """The answer for each reference."""
        if len(call.samples()) > 1:
            return [self(call, double=double)]
        return self._asked(call, call.requests(), double)

    def _asked(self, call: Call, asked: Sequence[AttributionRequest], double: bool) -> list[Attribution]:
        name = f"{call.request.model} in double" if double else call.request.model
        if name not in self._added:
            model = model_of(call.request.model)
            self.engine.add(name, to_double(model) if double else model)
            self._added.add(name)
        given = call.request.inputs
        if double:
            given = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in given.items()}
        return [self.engine.attribute(replace(r, model=name, inputs=given)) for r in asked]


def joined(answers: Sequence[Attribution]) -> Attribution:
    """The layers of several answers, sample after sample."""
    first, *others = answers
    if not others:
        return first
    layers = {
        name: replace(layer, values=np.concatenate([a.layers[name].values for a in answers]))
        for name, layer in first.layers.items()
    }
    return replace(first, layers=layers)


def delta(answer: Attribution) -> Floats:
    """The sum of all attributions less the change of the target, per sample; of LRP the target less the sum."""
    total = sum(layer.sum for layer in answer.layers.values())
    if answer.method == "lrp":
        return np.asarray(answer.target.value - total)
    return np.asarray(total - (answer.target.value - answer.target.baseline_value))


def counts(items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many items there are of each method."""
    found: dict[str, int] = {}
    for item in items:
        found[item["method"]] = found.get(item["method"], 0) + 1
    return found

"""Peers' expected numbers as questions to our engine: one case becomes one or more requests.

The file's format is described beside it. Captum's `LayerConductance` is our `neuron_ig`, its `NeuronX` the method X at
the input with a hidden target, its `LayerIntegratedGradients` our `integrated_gradients` with the layer as the source.
"""

from __future__ import annotations

import functools
import json
import lzma
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

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
from tests.oracle.nested import Floats, Nested, array, index_of, is_tensor

Json = dict[str, Any]

METHODS: dict[str, str] = {
    "IntegratedGradients": "integrated_gradients",
    "LayerConductance": "neuron_ig",
    "LayerIntegratedGradients": "integrated_gradients",
    "NeuronIntegratedGradients": "integrated_gradients",
    "NeuronGradient": "gradient",
    "Saliency": "gradient",
    "InputXGradient": "gradient_x_activation",
    "LayerGradientXActivation": "gradient_x_activation",
    "DeepLift": "deeplift_rescale",
    "LayerDeepLift": "deeplift_rescale",
    "NeuronDeepLift": "deeplift_rescale",
    "DeepLIFT-Linear": "deeplift_rescale",
    "DeepLIFT-Rescale": "deeplift_rescale",
    "DeepLIFT-rescale": "deeplift_rescale",
    "DeepLIFT-RevealCancel": "deeplift_reveal_cancel",
    "DeepLIFT-revealcancel": "deeplift_reveal_cancel",
    "DeepLIFT-genomics_default": "deeplift_genomics_default",
    "DeepLiftShap": "deeplift_rescale",
    "LayerDeepLiftShap": "deeplift_rescale",
    "NeuronDeepLiftShap": "deeplift_rescale",
    "DeepLIFT-MaxPool-gradient": "gradient",  # all that this rule of kundajelab's is
    "Gradient": "gradient",
    "FeatureAblation": "occlusion",
    "Occlusion": "occlusion",
    "InternalInfluence": "internal_influence",
    "NeuronConductance": "neuron_conductance",
    "LayerActivation": "layer_activation",
    "GradientShap": "expected_gradients",
    "LayerGradientShap": "expected_gradients",
    "NeuronGradientShap": "expected_gradients",
    "LayerGradCam": "grad_cam",
    "GuidedGradCam": "guided_grad_cam",
    "GuidedBackprop": "guided_backprop",
    "NeuronGuidedBackprop": "guided_backprop",
    "Deconvolution": "deconvnet",
    "NeuronDeconvolution": "deconvnet",
    "DeconvNet": "deconvnet",
    "LRP": "lrp",
    "LayerLRP": "lrp",
    "NoiseTunnel": "smoothgrad",  # or what its nt_type says, of another method of these
}
MAPS = ("relu_attributions", "attr_dim_summation")
"""Captum's options of maps, which are called alike here."""
MULTIPLIERS = (Gradient, GuidedBackprop, DeconvNet)
"""What is never multiplied by a difference."""
DROPPED_NOTHING = {"captum/equivalence/LRP==InputXGradient/test_lrp_ixg_equivalency#0": 0.99}
"""Recorded in training, with a Dropout of 0.01 that dropped nothing and divided by 0.99, which the graph has not."""
LRP_RULES = {
    "EpsilonRule": "epsilon({STABILITY_FACTOR})",
    "GammaRule": "gamma({gamma})",
    "Alpha1_Beta0_Rule": "zplus",
    "IdentityRule": "identity",
}
ARRAY = "test_classification_baselines_as_function#0"
DRAWS = 1000
"""How many we take at least of points between references and the input."""
TABLES = ("riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre")

REVEALING = frozenset({"DeepLIFT-RevealCancel", "DeepLIFT-revealcancel", "DeepLIFT-genomics_default"})
ONLY_DELTA, IN_DOUBLE, DEAD_UNIT = "compare only convergence_delta", "run in float64", "dead"
"""What a caution says: the library's own numbers are wrong, or ill-conditioned in float32, or come from a hidden unit
whose change is 0, where a quotient of rounding errors decides. In the first and the last only the sum has a meaning."""

ONLY_SUMS = (ONLY_DELTA, DEAD_UNIT)


SLICES = Path(__file__).parents[1] / "data" / "oracle"
"""What is committed of the file of cases: README.md there says what is left out."""


@functools.cache
def oracle() -> Json:
    """The file of cases where a folder of expected numbers is given, else the part that is committed."""
    name = os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")
    if name:
        whole: Json = json.loads((Path(name) / "oracle" / "cases.json").read_bytes())
        return whole
    return committed()


def committed() -> Json:
    """The parts of the file that are committed, together."""
    first, *others = (json.loads(lzma.decompress(path.read_bytes())) for path in sorted(SLICES.glob("*.xz")))
    found: Json = dict(first)
    for other in others:
        found["models"] = {**found["models"], **other["models"]}
        for part in ("cases", "equivalences"):
            found[part] = [*found[part], *other[part]]
    return found


# --- Which cases are meant


def cases() -> list[Json]:
    """The cases of our methods, but for one that is about an array of numpy in place of one of torch."""
    return [
        case
        for case in oracle()["cases"]
        if {case["method"], inner_of(case)} <= set(METHODS) and not case["id"].endswith(ARRAY)
    ]


def inner_of(case: Json) -> str:
    """The method that a case is about: of a noise tunnel the one inside of it."""
    return str(case.get("inner_method") or case["method"])


def tables() -> list[Json]:
    """The cases that list a quadrature's nodes and weights."""
    return [case for case in oracle()["cases"] if case["method"] in TABLES]


def equivalences() -> list[Json]:
    """The equivalences of two calls of our methods."""
    return [e for e in oracle()["equivalences"] if {e["lhs"]["method"], e["rhs"]["method"]} <= set(METHODS)]


def caution(case: Json) -> str:
    """What the caution of a case asks for: one of `ONLY_DELTA`, `IN_DOUBLE` and `DEAD_UNIT`, or nothing."""
    text = case.get("caution") or ""
    found = [kind for kind in (ONLY_DELTA, IN_DOUBLE, DEAD_UNIT) if kind in text]
    assert len(found) == bool(text), text
    return found[0] if found else ""


# --- Models and values


def model_of(name: str) -> onnx.ModelProto:
    """The ONNX model of a spec."""
    spec = oracle()["models"][name]["spec"]
    kinds = {"float32": 1, "float64": 11, "int64": 7, "int32": 6, "bool": 9}
    graph = helper.make_graph(
        [
            helper.make_node(n["op"], n["in"], n["out"], name=f"{n['op']}_{k}", **n["attrs"])
            for k, n in enumerate(spec["nodes"])
        ],
        name,
        [helper.make_tensor_value_info(i["name"], kinds[i["dtype"]], i["shape"]) for i in spec["inputs"]],
        [helper.make_empty_tensor_value_info(o) for o in spec["outputs"]],
        [numpy_helper.from_array(array(t), key) for key, t in spec["weights"].items()],
    )
    opsets = [helper.make_opsetid("", spec.get("opset", 17))]
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opsets, ir_version=9), data_prop=True
    )
    made = {v.name: v for v in [*model.graph.value_info, *model.graph.output]}
    outputs = [made[o] for o in spec["outputs"]]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


# --- Calls


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
        target = Target(tensor=tensors[0], index=_selected(side, tensors[0]))
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
            baselines=_baselines(side),
            steps=options.get("n_steps", 50),
            quadrature=options.get("method", "gausslegendre"),
            multiply_by_inputs=_multiplies(side) if multiply is None else multiply,
            **_features(sources, options),
            **_draws(side),
            **_neuron(side),
            **{name: options[name] for name in MAPS if name in options},
            **_rules(side),
        ),
        places,
        factor=2.0 if "custom_attribution_func" in options else 1.0,
        absolute=method == "Saliency" and options.get("abs", True),
        distribution=method.endswith("DeepLiftShap"),
        drawn=_drawn(side),
        copies=options.get("nt_samples", 1),
    )


def _neuron(side: Json) -> Json:
    """The neuron of a conductance: a layer and an index, of the first of several tensors where the file says so."""
    if side["method"] != "NeuronConductance":
        return {}
    tensors, selector = side["layer"]["onnx_tensors"], side["neuron_selector"]
    if isinstance(selector, dict) and "callable" in selector:
        (number,) = re.fullmatch(r"x(?:\[0\])?\[:, (\d+)\]", selector["python"]).groups()  # type: ignore[union-attr]
        return {"neuron": {tensors[0]: (int(number),)}}
    chosen = index_of(selector)
    return {"neuron": {tensors[0]: chosen if isinstance(chosen, tuple) else (chosen,)}}


def _rules(side: Json) -> Json:
    """The rules of LRP as Captum has them: those of its modules, and for what is none what autograd makes of it."""
    if METHODS[side["method"]] != "lrp":
        return {}
    model = oracle()["models"][side["model"]]
    modules = {name: part["out"][0] for name, part in model["spec"]["layers"].items()}
    named = {n["out"][0]: "derivative" for n in model["spec"]["nodes"] if n["out"][0] not in modules.values()}
    for module, rule in model.get("lrp_rules_effective", {}).items():
        named[modules[module]] = LRP_RULES[rule["class"]].format(**rule)
    return {"form": "captum", "rules": ";".join(f"{name}={rule}" for name, rule in named.items())}


def _drawn(side: Json) -> int:
    """How many draws a library takes, 0 where they are all alike."""
    options = side.get("options") or {}
    if side["method"] == "NoiseTunnel":
        return int(options["nt_samples"]) if options["stdevs"] else 0
    return int(options.get("n_samples", 5)) if side["method"].endswith("GradientShap") else 0


def _draws(side: Json) -> Json:
    """The parameters of random draws."""
    options, inner = side.get("options") or {}, inner_of(side)
    if side["method"] == "NoiseTunnel":
        absolute = inner == "Saliency" and options.get("abs", True)
        own = {"stdev": options["stdevs"], "of": METHODS[inner], "absolute": absolute}
        return {**own, "draws": options["nt_samples"]}
    if side["method"].endswith("GradientShap"):
        return {"stdev": options.get("stdevs", 0.0), "draws": max(_drawn(side), DRAWS)}
    return {}


def _features(sources: Sequence[str], options: Json) -> Json:
    """The groups or windows and strides of the sources; a window moves by 1 where Captum's options do not say."""
    fields: Json = {}
    if options.get("feature_mask") is not None:
        masks = _each(options["feature_mask"], sources, "groups")
        fields["groups"] = {n: array(mask).astype(np.int64) for n, mask in masks.items()}
    if "sliding_window_shapes" in options:
        sizes = {
            n: index_of(w) for n, w in _each(options["sliding_window_shapes"], sources, "window").items()
        }
        steps = options.get("strides")
        each = (
            _each(steps, list(sizes), "strides") if isinstance(steps, dict) else dict.fromkeys(sizes, steps)
        )
        fields["windows"] = sizes
        fields["strides"] = {n: _strides(step, sizes[n]) for n, step in each.items()}
    return fields


def _each(value: Json, sources: Sequence[str], word: str) -> dict[str, Any]:
    """What is given for each source; what is left over has a name that no source has."""
    parts = value["tuple"] if "tuple" in value and not _is_shape(value) else [value]
    names = [*sources, *(f"{word} {k}" for k in range(len(sources), len(parts)))]
    return dict(zip(names, parts, strict=False))


def _is_shape(value: Json) -> bool:
    """Whether a tuple of the file holds numbers, not a part for each input."""
    return "tuple" in value and all(isinstance(part, int) for part in value["tuple"])


def _strides(step: Any, window: tuple[int, ...]) -> tuple[int, ...]:
    if step is None:
        return (1,) * len(window)
    return (step,) * len(window) if isinstance(step, int) else tuple(index_of(step))


def _multiplies(side: Json) -> bool:
    if "custom_attribution_func" in (
        side.get("options") or {}
    ):  # it is given the multipliers and doubles them
        return False
    return bool(side.get("multiply_by_inputs", True))


def _only(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else list(parts)


def _leaves(place: Nested) -> Iterator[str]:
    if isinstance(place, list):
        for part in place:
            yield from _leaves(part)
    else:
        yield place


def _baselines(side: Json) -> dict[str, Any]:
    """One baseline per input: a scalar or tensor for all, or a tuple."""
    names, value = list(side["inputs"]), side.get("baselines")
    parts = value["tuple"] if isinstance(value, dict) and "tuple" in value else [value] * len(names)
    several = side["method"].endswith("GradientShap")
    return {n: _baseline(side, n, part, several) for n, part in zip(names, parts, strict=True)}


def _baseline(side: Json, name: str, part: Any, several: bool) -> Any:
    if isinstance(part, dict) and "formula" in part:
        (rows,) = map(int, re.findall(r"arange\(0, (\d+)\*num_in\)", part["formula"]))
        size = array(side["inputs"][name]).shape[1]
        return References(np.arange(0.0, rows * size).reshape(rows, size))
    if part is None:
        return 0.0
    found = array(part) if is_tensor(part) else part
    return References(found) if several and np.ndim(found) else found


def _selected(side: Json, tensor: str) -> Any:
    """The neuron; what a selector leaves open is summed, as Captum does."""
    model = model_of(side["model"])
    shapes = {v.name: v.type.tensor_type.shape.dim for v in [*model.graph.value_info, *model.graph.output]}
    rank = len(shapes[tensor]) - 1
    selector = side["neuron_selector"]
    if isinstance(selector, dict) and "callable" in selector:
        assert selector["python"] in ("torch.sum(x)", "x[:, 0]")
        if selector["python"] == "x[:, 0]":
            return (0, *(slice(None),) * (rank - 1))
        return (slice(None),) * rank
    chosen = index_of(selector)
    parts = chosen if isinstance(chosen, tuple) else (chosen,)
    return parts + (slice(None),) * (rank - len(parts))


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

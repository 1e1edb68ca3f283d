"""The options of a call of a peer's method as parameters of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_attribution.values import References
from tests.oracle.file import METHODS, Json, inner_of, model_of, oracle
from tests.oracle.nested import array, index_of, is_tensor

MAPS = ("relu_attributions", "attr_dim_summation")
"""Captum's options of maps, which are called alike here."""
LRP_RULES = {
    "EpsilonRule": "epsilon({STABILITY_FACTOR})",
    "GammaRule": "gamma({gamma})",
    "Alpha1_Beta0_Rule": "zplus",
    "IdentityRule": "identity",
}
DRAWS = 1000
"""How many we take at least of points between references and the input."""


def neuron(side: Json) -> Json:
    """The neuron of a conductance: a layer and an index, of the first of several tensors where the file says so."""
    if side["method"] != "NeuronConductance":
        return {}
    tensors, selector = side["layer"]["onnx_tensors"], side["neuron_selector"]
    if isinstance(selector, dict) and "callable" in selector:
        (number,) = re.fullmatch(r"x(?:\[0\])?\[:, (\d+)\]", selector["python"]).groups()  # type: ignore[union-attr]
        return {"neuron": {tensors[0]: (int(number),)}}
    chosen = index_of(selector)
    return {"neuron": {tensors[0]: chosen if isinstance(chosen, tuple) else (chosen,)}}


def rules_of(side: Json) -> Json:
    """The rules of LRP as Captum has them: those of its modules, and for what is none what autograd makes of it."""
    if METHODS[side["method"]] != "lrp":
        return {}
    model = oracle()["models"][side["model"]]
    modules = {name: part["out"][0] for name, part in model["spec"]["layers"].items()}
    named = {n["out"][0]: "derivative" for n in model["spec"]["nodes"] if n["out"][0] not in modules.values()}
    for module, rule in model.get("lrp_rules_effective", {}).items():
        named[modules[module]] = LRP_RULES[rule["class"]].format(**rule)
    return {"form": "captum", "rules": ";".join(f"{name}={rule}" for name, rule in named.items())}


def drawn(side: Json) -> int:
    """How many draws a library takes, 0 where they are all alike."""
    options = side.get("options") or {}
    if side["method"] == "NoiseTunnel":
        return int(options["nt_samples"]) if options["stdevs"] else 0
    return int(options.get("n_samples", 5)) if side["method"].endswith("GradientShap") else 0


def draws(side: Json) -> Json:
    """The parameters of random draws."""
    options, inner = side.get("options") or {}, inner_of(side)
    if side["method"] == "NoiseTunnel":
        absolute = inner == "Saliency" and options.get("abs", True)
        own = {"stdev": options["stdevs"], "of": METHODS[inner], "absolute": absolute}
        return {**own, "draws": options["nt_samples"]}
    if side["method"].endswith("GradientShap"):
        return {"stdev": options.get("stdevs", 0.0), "draws": max(drawn(side), DRAWS)}
    return {}


def features(sources: Sequence[str], options: Json) -> Json:
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


def multiplies(side: Json) -> bool:
    if "custom_attribution_func" in (
        side.get("options") or {}
    ):  # it is given the multipliers and doubles them
        return False
    return bool(side.get("multiply_by_inputs", True))


def baselines(side: Json) -> dict[str, Any]:
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


def selected(side: Json, tensor: str) -> Any:
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

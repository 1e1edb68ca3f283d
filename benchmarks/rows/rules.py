"""Methods that follow other rules than the gradient's, as requests at the input, beside the gradient's. A rule
that asks for sums of positive terms needs another convolution of each layer there (with the positive weights),
beside the one that makes the layer and the one that goes back: three in place of two, whatever runs them. Each row
names the convolutions of its program and of the gradient's, of which those with strides have several back; where
these alone are above the target, the target allows for 1.2 times their ratio. rectgrad runs samples one by one,
since its quantile is of one, is beside the gradient of samples that are asked for one by one, and has to select
among all units of a layer at each rectifier; with a threshold of its own (tau) it has not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.bench import Asking, Bench
from benchmarks.networks import Ready
from benchmarks.table import Bound, Figure, most
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.methods import make
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import AtInput, recipe_of
from onnx_attribution.values import Array

TITLE = "Rules in place of the gradient's"
SAMPLES = 2
TARGET = 1.2
METHODS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "guided_backprop": ("guided_backprop", {}),
    "deconvnet": ("deconvnet", {}),
    "rectgrad": ("rectgrad", {}),
    "rectgrad, tau 0": ("rectgrad", {"tau": 0.0}),
    "lrp epsilon": ("lrp", {}),
    "lrp gamma": ("lrp", {"rule": "gamma"}),
    "lrp zplus": ("lrp", {"rule": "zplus"}),
    "lrp alpha_beta": ("lrp", {"rule": "alpha_beta"}),
    "lrp epsilon_plus": ("lrp", {"composite": "epsilon_plus"}),
    "lrp epsilon_plus_flat": ("lrp", {"composite": "epsilon_plus_flat"}),
    "lrp epsilon_alpha2_beta1": ("lrp", {"composite": "epsilon_alpha2_beta1"}),
    "lrp epsilon_gamma_box": ("lrp", {"composite": "epsilon_gamma_box", "low": -3.0, "high": 3.0}),
    "fb_trace": ("fb_trace", {}),
    "fb_trace positive, tau 1e-4": ("fb_trace", {"form": "positive", "tau": 1e-4, "first": "absolute"}),
}


def figures(bench: Bench) -> Iterator[Figure]:
    ready = bench.network("resnet50")
    inputs = ready.inputs(min(SAMPLES, ready.size.batch))
    name = f"{ready.name} ({len(next(iter(inputs.values())))})"
    model = LoadedModel(ready.file, Backend("cpu", bench.threads))
    gradient = _convolutions(model, "gradient", {})
    with bench.asking(ready.file) as ask:
        programs: dict[str, Callable[[], object]] = {
            "gradient": partial(ask, inputs, "gradient"),
            "gradient, one by one": partial(_one_by_one, ask, ready, inputs),
            **{word: partial(ask, inputs, method, **given) for word, (method, given) in METHODS.items()},
        }
        times = bench.alternating(programs, rounds=5, seconds=180)
    for word, (method, given) in METHODS.items():
        below = "gradient, one by one" if word == "rectgrad" else "gradient"
        ratio = times.ratio(word, below)
        own = _convolutions(model, method, given)
        counted = f"{own} convolutions, the gradient {gradient}; " if own else ""
        target: Bound = most(TARGET)
        excused = bool(own) and ratio.value <= TARGET * own / gradient and own / gradient >= TARGET
        yield Figure(
            name, f"{word} / {below}", ratio, target, counted + times.words(below, word), excused=excused
        )


def _one_by_one(ask: Asking, ready: Ready, inputs: Mapping[str, Array]) -> None:
    for k in range(len(next(iter(inputs.values())))):
        ask({name: array[k : k + 1] for name, array in inputs.items()}, "gradient")


def _convolutions(model: LoadedModel, method: str, given: Mapping[str, Any]) -> int:
    """Those of a program of the method's rules; 0 where it runs others."""
    found = recipe_of(make(method, given))
    if not isinstance(found.at, AtInput):
        return 0
    source, target = model.inputs[0].name, model.outputs[0].name
    program = rows_program(
        model.network, Choice((source,), (source,), target), rules=found.table, relevance=found.relevance,
        activations=False,
    )  # fmt: skip
    return sum(node.op_type == "Conv" for node in program.model.graph.node)

"""What is asked of each case: the gradient, and two of the other methods, of inputs and of hidden layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from tests.fuzz.draft import Array
from tests.fuzz.generate import Case, taken
from tests.method_names import PATH_METHODS

STEPS = 8


@dataclass(frozen=True)
class Ask:
    """One request; baselines are of one sample, as the file takes it."""

    method: str
    layers: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    baselines: Mapping[str, Array] = field(default_factory=dict)

    def __str__(self) -> str:
        parts: list[str] = [self.method]
        if self.layers:
            parts.append(f"of {', '.join(self.layers)}")
        if self.source:
            parts.append(f"from {', '.join(self.source)}")
        parts += [f"{n}'={a.tolist()}" for n, a in self.baselines.items()]
        return " ".join(parts)


def asks(case: Case) -> list[Ask]:
    """The questions of a case."""
    rng = np.random.default_rng([int(part) for part in case.label.split(":")] + [1])
    needed = behind(case.model, case.target)
    floats = tuple(x.name for x in case.inputs if not x.integers and x.name in needed)
    integers = any(x.integers for x in case.inputs)
    found = [Ask("gradient")]
    missing = any(a.dtype.kind == "f" and np.isnan(a).any() for row in case.rows for a in row.values())
    if missing:  # a source that is missing has no path
        return [*found, Ask("occlusion")]
    hidden = _hidden(case, floats)
    if integers:
        found += [Ask("integrated_gradients"), Ask("deeplift_rescale")]
        inner = _after_integers(case)
        if inner:
            found.append(Ask("integrated_gradients", (inner[int(rng.integers(len(inner)))],)))
        return found
    methods: Sequence[str] = (
        "integrated_gradients", "neuron_ig", "deeplift_rescale", "occlusion", "gradient", "gradient_x_activation",
        "deeplift_reveal_cancel", "deeplift_genomics_default",
    )  # fmt: skip
    weights = np.array([4, 4, 3, 2, 2, 1, 1, 1]) / 18
    for k in rng.choice(len(methods), size=2, replace=False, p=weights):
        method = methods[k]
        layers: tuple[str, ...] = ()
        if hidden and method not in ("integrated_gradients", "occlusion") and (
            method in ("neuron_ig", "gradient") or rng.random() < 0.5
        ):  # fmt: skip
            layers = (hidden[int(rng.integers(len(hidden)))],)
        baselines = {}
        if (method in PATH_METHODS or method.startswith("deeplift")) and rng.random() < 0.85:
            baselines = {
                name: np.asarray(rng.normal(size=case.rows[0][name].shape), case.rows[0][name].dtype)
                for name in floats
            }
        found.append(Ask(method, layers, (), baselines))
    return found


def leads(model: onnx.ModelProto, names: Sequence[str]) -> set[str]:
    """The tensors of the main graph that depend on some of these."""
    found = set(names)
    for node in model.graph.node:
        if found.intersection(taken(node)):
            found.update(node.output)
    return found


def behind(model: onnx.ModelProto, name: str) -> set[str]:
    """The tensors of the main graph on which a tensor depends."""
    found = {name}
    for node in reversed(model.graph.node):
        if found.intersection(node.output):
            found.update(taken(node))
    return found


def _hidden(case: Case, floats: Sequence[str]) -> list[str]:
    """The hidden tensors between float inputs and target that each sample has of its own."""
    after, before = leads(case.model, floats), behind(case.model, case.target)
    inputs = {x.name for x in case.inputs}
    return [
        name
        for name, dims in case.dims.items()
        if name in after & before and name not in inputs | {case.target} and (case.batchless or "N" in dims)
    ]


def _after_integers(case: Case) -> list[str]:
    """The first float tensors behind the integer inputs."""
    names = {x.name for x in case.inputs if x.integers}
    before = behind(case.model, case.target)
    return [
        node.output[0]
        for node in case.model.graph.node
        if names.intersection(node.input) and node.output[0] in case.dims and node.output[0] in before
    ]

"""What an audit is asked to look at: methods with their parameters, hidden layers, and the class that is explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.client.audit.steps import Aim
from onnx_attribution.errors import AttributionError, InvalidArgument, NotDifferentiable, Reason
from onnx_attribution.methods import Gradient, Method, make, registered
from onnx_attribution.parameters import parameters_of
from onnx_attribution.register import unknown
from onnx_attribution.server.cli.asker import Asker
from onnx_attribution.server.cli.method import parsed
from onnx_attribution.server.cli.target import split_tensor
from onnx_attribution.values import AttributionRequest

MOST_LAYERS = 8
"""Hidden layers of a report, where none are named."""


def has_derivatives(asker: Asker, data: Dataset) -> bool:
    """Whether the model has any: every way through a tree, say, has none."""
    try:
        asker.attribute(AttributionRequest(asker.asked[1], data.items[0].inputs, Gradient()))
    except NotDifferentiable:
        return False
    except AttributionError:
        return True  # something else is to be said, by the methods that are asked then
    return True


def methods_of(text: str, parameters: Sequence[str]) -> dict[str, Method]:
    """The methods by name, with their parameters. Raises: InvalidArgument: there is no such method or parameter."""
    names = [one.strip().replace("-", "_").lower() for one in text.split(",") if one.strip()]
    known = registered()
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        if name not in known:
            raise unknown(name, known)
    if not names:
        raise InvalidArgument("--methods names none", reason=Reason.PARAMETER_INVALID)
    for one in parameters:
        place, sign, value = one.partition("=")
        method, dot, name = place.replace("-", "_").partition(".")
        if not (sign and dot):
            raise InvalidArgument(f"--parameter {one!r} is not of the form METHOD.NAME=VALUE")
        if method not in given:
            raise InvalidArgument(
                f"--parameter {one!r}: {method} is not audited; audited are {', '.join(names)}"
            )
        if name not in {each.name for each in parameters_of(known[method])}:
            listed = ", ".join(each.name for each in parameters_of(known[method]))
            raise InvalidArgument(f"--parameter {one!r}: {method} has no {name}; it has {listed}")
        given[method].update(parsed(method, (), [f"{name}={value}"], ()))
    return {name: make(name, given[name]) for name in names}


def layers_of(
    asker: Asker, given: Sequence[str], sources: Sequence[str] = (), target: str | None = None
) -> tuple[str, ...]:
    """The hidden layers by their names: those that are given, or some of all between the sources and the target, evenly
    from the first to the last."""
    info = asker.info()
    known = [one for one in asker.layers("") if one.name not in {each.name for each in info.inputs}]
    if given:
        names = []
        for text in given:
            names += [one.name for one in known if one.name == text] or [
                one.name for one in asker.layers(text) if one.name not in info.sources
            ]
            if not names:
                raise InvalidArgument(
                    f"--layer {text!r}: there is no such layer", reason=Reason.LAYER_INVALID
                )
        return tuple(dict.fromkeys(names))
    outputs = {one.name for one in info.outputs}
    kinds = [
        one.name
        for one in known
        if one.name not in outputs and one.name not in info.sources and _counts(one.operator)
    ]
    if target is not None:
        ends = sources or info.sources or [one.name for one in info.inputs]
        kinds = [name for name in kinds if _is_between(asker, name, ends, target)]
    if len(kinds) <= MOST_LAYERS:
        return tuple(kinds)
    step = (len(kinds) - 1) / (MOST_LAYERS - 1)
    return tuple(dict.fromkeys(kinds[round(k * step)] for k in range(MOST_LAYERS)))


def _is_between(asker: Asker, layer: str, sources: Sequence[str], target: str) -> bool:
    """Whether a way leads from a source by the layer to the target; of a served model nobody here knows, and it may."""
    if asker.server() is not None:
        return True
    behind, before = asker.links([layer, target]), asker.links([*sources, layer])
    return (layer, target) in behind and any(second == layer for _, second in before)


def _counts(operator: str) -> bool:
    """Whether people speak of the outputs of an operator as of a layer."""
    words = (
        "Conv",
        "Gemm",
        "MatMul",
        "LSTM",
        "GRU",
        "RNN",
        "Pool",
        "Attention",
        "Relu",
        "Normalization",
        "Add",
    )
    return any(word in operator for word in words)


def aim_of(text: str, outputs: Sequence[str]) -> tuple[Aim, str | None]:
    """What is explained of each sample, and of which tensor: the predicted class, the labelled one, or an index or
    region as in `explain`."""
    if text in ("predicted", "label"):
        return ("label" if text == "label" else "predicted"), None
    tensor, index = split_tensor(text, outputs)
    if index is None:
        return "predicted", tensor
    return index, tensor

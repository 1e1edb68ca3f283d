"""Runs of a model as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from onnx_attribution.errors import InvalidArgument, ModelError
from onnx_attribution.graph_tools.program import forward_program
from onnx_attribution.server.loaded import LoadedModel
from onnx_attribution.values import Array


def forward(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    tensors: Sequence[str],
    hidden: Sequence[str] = (),
    *,
    where: str = "on these inputs",
) -> dict[str, Array]:
    """The named tensors at the inputs; `hidden` tensors are given like inputs.

    Raises:
        InvalidArgument: the model cannot be run on them; `where` says in words what they are.
    """
    key = ("forward", tuple(tensors), tuple(hidden))
    session = model.session(key, lambda: forward_program(model.network, tensors, hidden))
    try:
        found = session.run(dict(inputs))
    except ModelError as error:
        raise _input_error(model, inputs, error, where) from error
    return {name: found.get(name, found.get(f"output/{name}", np.empty(0))) for name in tensors}


_INDEX = re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),(-?\d+)\]")


def _input_error(
    model: LoadedModel, inputs: Mapping[str, Array], error: ModelError, where: str
) -> InvalidArgument:
    """The failure of a run as one of what was given: for an index out of range, the input that holds it."""
    found, detail = _INDEX.search(error.message), error.metadata.get("detail", error.message)
    if found is None:
        alike = "; ".join(model.unequal(inputs))
        hint = f" ({alike}; the file calls the two sizes alike)" if alike else ""
        return InvalidArgument(f"the model cannot be run {where}: {detail}{hint}", reason="INPUT_INVALID")
    index, high = int(found[1]), int(found[3])
    node = detail[: detail.find(":")]
    holders = [
        n for n, a in inputs.items() if n in model.network.input_axes and a.dtype.kind in "iu" and index in a
    ]
    holder = " or ".join(f"input {name!r}" for name in holders) or "an index that it computes"
    text = f"{holder} holds {index}; {node} looks up 0 to {high}"
    return InvalidArgument(
        f"the model cannot be run {where}: {text}",
        reason="INPUT_INVALID",
        violations={f"inputs.{name}": text for name in holders},
        legal=f"0..{high}",
        actual=index,
    )

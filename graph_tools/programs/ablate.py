"""Programs in which activations are edited: replaced or scaled, other elements in each row.

An edited tensor has its new value for all that reads it, inner graphs and outputs of the model included:
`after = mask ? value : before * scale`, element by element. Which elements a row edits is an input of the program, so
that ablations of many sets are rows of one run, and a row that edits nothing has an empty mask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.convert import input_like
from onnx_attribution.graph_tools.ir.emit import Value, element_type
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.signature import Program

WIDER: Mapping[str, type[np.generic]] = {
    **dict.fromkeys(["float16", "bfloat16"], np.float32),
    "bool": np.uint8,
    **dict.fromkeys(["int8", "int16"], np.int32),
    **dict.fromkeys(["uint16", "uint32", "uint64"], np.int64),
}
"""The type in which onnxruntime chooses between elements of a type for which it has no `Where`; all keep their value,
and uint64 comes back from where it wraps to."""


def mask_of(layer: str) -> str:
    """The input that says which elements are replaced."""
    return f"intervention/{layer}/mask"


def value_of(layer: str) -> str:
    """The input that says by what."""
    return f"intervention/{layer}/value"


def scale_of(layer: str) -> str:
    """The input that says by what the other elements are multiplied."""
    return f"intervention/{layer}/scale"


def ablate_program(
    network: Network,
    layers: Sequence[str],
    tensors: Sequence[str],
    sources: Sequence[str] = (),
    scaled: Collection[str] = (),
) -> Program:
    """The network with `layers` edited and `tensors` exposed; hidden `sources` become inputs.

    Inputs are the network's own, hidden sources by name, and for each layer in the layer's own shape
    `intervention/<layer>/mask` (of truth values), `intervention/<layer>/value`, and for those in `scaled`
    `intervention/<layer>/scale`. A layer may be an input, a source, or lie behind another layer: it is edited after
    that one. An input among the tensors, edited or not, is the output `output/<input>`, as is a source.
    """
    draft = Draft(network, sources)
    given = {x.name for x in draft.graph.inputs}
    edited = {name: _edited(draft, name, name in scaled) for name in layers}
    for name in tensors:
        value = edited[name] if name in edited else draft.tensor(name)
        if name in given:
            draft.put(value, f"output/{name}")
        else:
            draft.outputs.append(value)
    return draft.finish()


def _edited(draft: Draft, name: str, is_scaled: bool) -> Value:
    """The tensor after its edit, which all that read it read from then on."""
    op, after = draft.op, draft.tensor(name)
    before = _split(draft, after)
    kind = element_type(after)
    wide = WIDER.get(kind.name, kind)
    kept: Value = op.cast(before, wide)
    if is_scaled:
        kept = op("Mul", kept, op.cast(_input(draft, after, scale_of(name)), wide))
    mask = _input(draft, after, mask_of(name), np.dtype(np.bool_))
    made = op("Where", mask, op.cast(_input(draft, after, value_of(name)), wide), kept)
    made.shape = after.shape
    made = op.cast(made, kind)
    draft.graph.nodes.append(gs.Node("Identity", f"intervention/{name}/edit", inputs=[made], outputs=[after]))
    return after


def _split(draft: Draft, after: Value) -> Value:
    """What makes the tensor makes another one, whose value it gets from elsewhere: the tensor as it was.

    Of an input the other one has the name, for whoever gives it.
    """
    name, graph = after.name, draft.graph
    is_input = any(x is after for x in graph.inputs)
    before = gs.Variable(
        name if is_input else f"intervention/{name}/before", dtype=after.dtype, shape=after.shape
    )
    if is_input:
        after.name = f"intervention/{name}/after"
        graph.inputs[:] = [before if x is after else x for x in graph.inputs]
    for node in list(after.inputs):
        node.outputs[next(k for k, z in enumerate(node.outputs) if z is after)] = before
    return before


def _input(draft: Draft, like: Value, name: str, kind: np.dtype[np.generic] | None = None) -> gs.Variable:
    """A new input of the shape of a tensor, and of its type unless another is given."""
    made = input_like(like, name)
    if like.shape is None:
        made.shape = None
    if kind is not None:
        made.dtype = kind
    return draft.add(made)

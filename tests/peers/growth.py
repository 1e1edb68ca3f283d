"""How many nodes a gradient program adds to a model."""

from __future__ import annotations

from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.read.load import ModelSource, load
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel

STATIC, DYNAMIC = 4, 6
"""At most so many nodes are to be added for each node of the model, with static shapes and with a dynamic batch.

The gradient of a strided convolution is one convolution for each place of its stride: more nodes, and faster.
"""


def growth(source: ModelSource, *, static: bool = False) -> float:
    """Nodes that the gradient of the first output at the sources adds, for each node of the normalised (folded) model.

    With `static`, every size that the file fixes stays as it is; otherwise a batch axis is sought, and freed.
    """
    axes = dict.fromkeys((x.name for x in load(source).graph.input), None) if static else None
    model = LoadedModel(source, Backend("cpu"), axes)
    target = model.first_target()
    sources = model.sources((), target)
    program = rows_program(model.network, Choice(sources, sources, target))
    before = len(model.network.model.graph.node)
    return (len(program.model.graph.node) - before) / before

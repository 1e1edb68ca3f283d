"""Where the nodes of a program would run on CUDA, and what would be copied between the device and the host."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxruntime as ort

from onnx_attribution.errors import AttributionError, ModelError
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, reads
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.path import NotSeparable, path_program
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.read.load import ModelSource
from onnx_attribution.graph_tools.select.layers import layers_between
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import Array

PROGRAMS: Mapping[str, Callable[..., Program]] = {
    "gradient": rows_program,
    "path": path_program,
    "deeplift_rescale": deeplift_program,
}
COPIES = ("MemcpyFromHost", "MemcpyToHost")
SHAPES = ("Shape", "Size")


@dataclass(frozen=True)
class Placed:
    """Where the nodes of one program are: how many on CUDA, and which on the CPU."""

    model: str
    program: str
    cuda: int = 0
    shapes: Mapping[str, int] = field(default_factory=dict)  # shape arithmetic, by operator
    copies: int = 0  # between device and host
    others: Mapping[str, int] = field(default_factory=dict)  # all else on the CPU
    refused: str = ""

    def line(self) -> str:
        """The row of the table."""
        listed = ", ".join(f"{name} {count}" for name, count in sorted(self.shapes.items()))
        rest = ", ".join(f"{name} {count}" for name, count in sorted(self.others.items()))
        figures = (
            [self.refused, "", "", ""] if self.refused else [str(self.cuda), listed, str(self.copies), rest]
        )
        return f"| {self.model} | {self.program} | {' | '.join(figures)} |"


class _Asked(Backend):
    """A CUDA backend whose sessions say where their nodes are; they cannot run."""

    def __init__(self, folder: Path) -> None:
        super().__init__("cuda", threads=1)
        self.optimised = folder / "optimised.onnx"

    def _options(self, optimise: bool, arena: bool) -> ort.SessionOptions:
        options = super()._options(optimise, arena)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.optimized_model_filepath = str(self.optimised)
        return options


def placed(
    name: str,
    source: ModelSource,
    given: Mapping[str, Array] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Iterator[Placed]:
    """Each program of a model, with the sources and the tensor halfway to the target as layers."""
    try:
        model = LoadedModel(source, Backend("cpu"), given=given, shapes=shapes)
        target = model.first_target()
        sources = model.sources((), target)
        between = [x.name for x in layers_between(model.graph, sources, target)]
        layers = tuple(dict.fromkeys([*sources, *between[len(between) // 2 :][:1]]))
        model.rows_of([*layers, target])
        choice = Choice(sources, layers, target)
    except AttributionError as error:
        yield Placed(name, "", refused=str(error).splitlines()[0][:100])
        return
    for kind, build in PROGRAMS.items():
        try:
            program = build(model.network, choice).model
            yield _asked(name, kind, program)
        except NotSeparable:
            yield Placed(name, kind, refused="one row a run")
        except (AttributionError, ModelError) as error:
            yield Placed(name, kind, refused=str(error).splitlines()[0][:100])


def _asked(name: str, kind: str, program: onnx.ModelProto) -> Placed:
    with tempfile.TemporaryDirectory() as folder:
        backend = _Asked(Path(folder))
        parts = backend.session(program).assignments()
        graph = onnx.load(backend.optimised, load_external_data=False).graph
    of_shapes = shape_arithmetic(graph)
    cuda, shapes, others = 0, Counter[str](), Counter[str]()
    for provider, domain, operator, node in parts:
        if provider != "CPUExecutionProvider":
            cuda += 1
        else:
            counted = shapes if node in of_shapes else others
            counted[f"{domain}:{operator}" if domain else operator] += 1
    copies = sum(node.op_type in COPIES for node in graph.node)
    return Placed(name, kind, cuda, shapes, copies, others)


def shape_arithmetic(graph: onnx.GraphProto, data: frozenset[str] = frozenset()) -> set[str]:
    """The names of the nodes that know no more of tensors than their shapes, in inner graphs too.

    `data` are the tensors of outer graphs that are more than that. Nodes are in any order.
    """
    known = {x.name for x in graph.input} | data
    _spread(graph, known)
    sized = {z for node in graph.node if node.op_type in SHAPES for z in node.output}
    _spread(graph, sized)
    found = {
        node.name
        for node in graph.node
        if node.op_type in SHAPES or (sized.intersection(reads(node)) and not known.intersection(reads(node)))
    }
    for node in graph.node:
        for inner in inner_graphs(node):
            found |= shape_arithmetic(inner, frozenset(known))
    return found


def _spread(graph: onnx.GraphProto, tensors: set[str]) -> None:
    """Adds, in place, what is made from these tensors, other than their shapes."""
    last = -1
    while len(tensors) != last:
        last = len(tensors)
        for node in graph.node:
            if node.op_type not in SHAPES and tensors.intersection(reads(node)):
                tensors.update(node.output)

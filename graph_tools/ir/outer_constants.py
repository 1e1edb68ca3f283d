"""Moves the constants of inner graphs out of them: programs copy branches and bodies, and share what is outside."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping

import onnx
from onnx import helper

from onnx_attribution.graph_tools.ir.nodes import inner_graphs

SMALL = 1 << 10  # bytes up to which a Constant node stays where it is


def hoist(graph: onnx.GraphProto) -> None:
    """Moves, in place, the initializers and large Constant nodes of all inner graphs to `graph`; equal ones become
    one."""
    if any(True for node in graph.node for _ in inner_graphs(node)):
        _Hoisting(graph).hoist(graph)


class _Hoisting:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.outer = graph
        self.contents: defaultdict[str, set[bytes]] = defaultdict(set)
        for name, content in _defined(graph, is_outer=True):
            self.contents[name].add(content)
        contents = [(_content(tensor), tensor.name) for tensor in graph.initializer]
        self.known = {content: name for content, name in contents if self._is_free(name, content)}

    def _is_free(self, name: str, content: bytes) -> bool:
        """Whether nothing but constants of this content has the name, so that no inner graph hides it."""
        return self.contents[name] <= {content}

    def hoist(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for inner in inner_graphs(node):
                self.hoist(inner)
                self._empty(inner)

    def _empty(self, inner: onnx.GraphProto) -> None:
        """Moves the constants of one inner graph out, under new names where others have theirs."""
        inputs, outputs = {x.name for x in inner.input}, {z.name for z in inner.output}
        large = [node for node in inner.node if _is_large(node)]
        moved = {tensor.name: tensor for tensor in inner.initializer if tensor.name not in {"", *inputs}}
        moved |= {node.output[0]: node.attribute[0].t for node in large}
        if not moved:
            return
        names = {name: self._moved(name, tensor) for name, tensor in moved.items()}
        for node in large:
            inner.node.remove(node)
        _rename(inner, names)
        for name in names.keys() & outputs:  # what a graph returns has to be made there
            inner.node.append(helper.make_node("Identity", [names[name]], [name], names[name]))
        kept = [
            onnx.TensorProto.FromString(t.SerializeToString()) for t in inner.initializer if t.name in inputs
        ]
        del inner.initializer[:]
        inner.initializer.extend(kept)

    def _moved(self, name: str, tensor: onnx.TensorProto) -> str:
        """The name of the outer constant that equals `tensor`, which is added if there is none."""
        content = _content(tensor)
        if content not in self.known:
            new = name
            if not self._is_free(name, content):
                new = f"{name}/{len(self.outer.initializer)}"
                while new in self.contents:
                    new += "_"
                self.contents[new].add(content)
            self.outer.initializer.add().CopyFrom(tensor)
            self.outer.initializer[-1].name = self.known[content] = new
        return self.known[content]


def _content(tensor: onnx.TensorProto) -> bytes:
    """A digest of all of a tensor but its name."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("name")
    return hashlib.sha256(copy.SerializeToString()).digest()


def _is_large(node: onnx.NodeProto) -> bool:
    value = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
    return value is not None and value.name == "value" and value.t.ByteSize() > SMALL


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Gives what nodes read its new name, in graphs inside them too unless they define the old name anew."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for inner in inner_graphs(node):
            own = {x.name for x in inner.input} | {z for n in inner.node for z in n.output}
            _rename(inner, {old: new for old, new in names.items() if old not in own})


_COMPUTED = b""  # the content of what is no constant


def _defined(graph: onnx.GraphProto, is_outer: bool = False) -> Iterator[tuple[str, bytes]]:
    """The name and content of each value that is defined, in inner graphs too."""
    fixed = {x.name for x in graph.input}
    if not is_outer:  # what an inner graph returns is made there, whatever becomes of constants
        fixed |= {z.name for z in graph.output}
    for tensor in graph.initializer:
        yield tensor.name, _content(tensor)
    for node in graph.node:
        if not is_outer and _is_large(node):
            yield node.output[0], _content(node.attribute[0].t)
        else:
            fixed.update(z for z in node.output if z)
        for inner in inner_graphs(node):
            yield from _defined(inner)
    for name in fixed:
        yield name, _COMPUTED

"""Small files that would cost much: each kind under a name, with what is said of it. Some need files beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.programs import parsed

Made = onnx.ModelProto | bytes
TERA = 1 << 40


def graph(lines: str, shape: str = "N, 3") -> onnx.ModelProto:
    """`y` from `x` of this shape."""
    return parsed(f"g (float[{shape}] x) => (y) {{ {lines} }}", opset=17)


def declared(*shape: int, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """One input of this shape."""
    made = graph("y = Identity(x)")
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, shape))
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, None))
    return made


def made_of(lines: str, **constants: object) -> onnx.ModelProto:
    """A model that adds the sum of `b` to its input, after these lines."""
    made = graph(f"{lines} r = ReduceSum<keepdims = 0>(b) y = Add(x, r)")
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return made


def functions(*bodies: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """Functions `l.f0`, `l.f1`, ..., each from `a` to `b`; the last one is called."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("l", 1)]
    made = [
        helper.make_function("l", f"f{k}", ["a"], ["b"], list(body), opsets) for k, body in enumerate(bodies)
    ]
    node = helper.make_node(f"f{len(bodies) - 1}", ["x"], ["y"], domain="l")
    info = helper.make_tensor_value_info
    whole = helper.make_graph([node], "g", [info("x", 1, [2, 3])], [info("y", 1, None)])
    return helper.make_model(whole, opset_imports=opsets, ir_version=8, functions=made)


def call(k: int, given: str, result: str) -> onnx.NodeProto:
    return helper.make_node(f"f{k}", [given], [result], domain="l")


def doubled(times: int) -> onnx.ModelProto:
    """Each function calls the one before it twice."""
    first = [helper.make_node("Neg", ["a"], ["b"])]
    return functions(first, *([call(k, "a", "t"), call(k, "t", "b")] for k in range(times)))


def inside_branches(depth: int) -> bytes:
    """An If in a branch of an If, and so on: deeper than protobuf's own writer goes."""

    def field(number: int, content: bytes) -> bytes:
        length, head = len(content), bytearray([number << 3 | 2])
        while length > 127:
            head.append(length & 127 | 128)
            length >>= 7
        return bytes([*head, length]) + content

    body = b""
    for _ in range(depth):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
        body = field(
            1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, body) + b"\xa0\x01\x05")
        )
    return b"\x08\x08" + field(7, body)


def external(location: str, *, size: int = 3, count: int = 1, step: int = 0) -> onnx.ModelProto:
    """Weights in a file, one tensor `step` bytes behind the other."""
    made = graph("y = Add(x, w0)")
    for k in range(count):
        tensor = made.graph.initializer.add(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[size])
        outside(tensor, location, step * k, 4 * size)
    return made


def outside(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def sparse(size: int, location: str = "", *, in_node: bool = False) -> onnx.ModelProto:
    """A sparse tensor of one value."""
    value, index = numpy_helper.from_array(np.ones(1, np.float32), "b"), np.array([1])
    if location:
        outside(value, location, 0, 4)
    tensor = onnx.SparseTensorProto(values=value, indices=numpy_helper.from_array(index), dims=[size])
    made = made_of("")
    if in_node:
        made.graph.node.insert(0, helper.make_node("Constant", [], ["b"], sparse_value=tensor))
    else:
        made.graph.sparse_initializer.append(tensor)
    return made


def weight(values: int, *dims: int) -> onnx.ModelProto:
    """A weight with so many values, which says that it is of another shape."""
    made = graph("y = Add(x, w)")
    tensor = made.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=dims)
    tensor.raw_data = bytes(4 * values)
    return made


def renamed(new: bytes) -> bytes:
    return graph("hidden = Relu(x) y = Relu(hidden)").SerializeToString().replace(b"hidden", new)


def many_nodes() -> bytes:
    """Nodes of two bytes each."""
    made = graph("y = Relu(x)")
    made.graph.node.extend([onnx.NodeProto()] * 100_000)
    return made.SerializeToString()


KINDS: dict[str, tuple[Callable[[], Made], str]] = {
    "input of 4 GiB": (lambda: declared(1 << 30), "'x' is declared with 1073741824 elements"),
    "input of terabytes": (lambda: declared(1, 3, 1000000, 1000000), "'x' is declared with"),
    "input beyond 64 bits": (lambda: declared(TERA, TERA), "'x' is declared with"),
    "input of text": (lambda: declared(1 << 34, kind=TensorProto.STRING), "'x' is declared with"),
    "input of many axes": (lambda: declared(*[1] * 1000), "'x' is declared with 1000 axes"),
    "weight of terabytes": (lambda: weight(3, TERA), "holds 12 bytes, its type and shape"),
    "weight beyond 64 bits": (lambda: weight(3, 1 << 62, 4), "holds 12 bytes, its type and shape"),
    "weight of no size": (lambda: weight(3, -3), "negative size"),
    "constant of 8 GiB": (
        lambda: made_of("b = ConstantOfShape(s)", s=np.array([1 << 31])),
        r"ConstantOfShape \(node 'b'\) makes a tensor of the shape \[2147483648\]",
    ),
    "constant of terabytes": (lambda: made_of("b = ConstantOfShape(s)", s=np.array([TERA, 4])), "makes a tensor"),
    "constant in a node": (
        lambda: made_of("s = Constant<value_ints = [1099511627776]>() b = ConstantOfShape(s)"),
        "makes a tensor",
    ),
    "expanded": (lambda: made_of("b = Expand(x, s)", s=np.array([TERA, 1, 1])), "Expand .* makes a tensor"),
    "random": (lambda: made_of("b = RandomNormal<shape = [1099511627776]>()"), "RandomNormal .* makes a tensor"),
    "tiled": (lambda: made_of("b = Tile(x, s)", s=np.array([1, TERA])), "Tile"),
    "range": (
        lambda: made_of("b = Range(z, e, o)", z=np.float32(0), e=np.float32(1e12), o=np.float32(1)),
        "memory does not suffice: Range",
    ),
    "product": (
        lambda: made_of("b = MatMul(m, n)", m=np.ones((1 << 18, 1), "f4"), n=np.ones((1, 1 << 18), "f4")),
        "memory does not suffice: MatMul",
    ),
    "sparse of 8 GiB": (lambda: sparse(1 << 31), "dense data size"),
    "sparse of terabytes": (lambda: sparse(TERA), "dense data size"),
    "sparse in a node": (lambda: sparse(TERA, in_node=True), "dense data size"),
    "sparse from elsewhere": (lambda: sparse(8, "../../../etc/passwd"), "not in the folder of the model"),
    "sparse in a node from elsewhere": (lambda: sparse(8, "/etc/passwd", in_node=True), "not in the folder"),
    "file above": (lambda: external("../weights.bin"), "not in the folder of the model"),
    "file elsewhere": (lambda: external("/etc/passwd"), "not in the folder of the model"),
    "file behind a link": (lambda: external("link.bin"), "symbolic link"),
    "file in a linked folder": (lambda: external("linked/passwd"), "symbolic link"),
    "file with another name": (lambda: external("hard.bin"), "hard link"),
    "pipe": (lambda: external("pipe"), "which is missing"),
    "file of a long name": (lambda: external("a" * 5000), "longer than 1024 characters"),
    "file of a name that systems refuse": (lambda: external("a" * 500), "which cannot be read: File name too long"),
    "file of an odd name": (lambda: external("a\0b"), "not in the folder of the model"),
    "file of terabytes": (lambda: external("hole.bin", size=1 << 38), "more than the memory there is"),
    "file taken often": (lambda: external("weights.bin", size=1 << 18, count=500), "more than 4 times over"),
    "file taken in steps": (lambda: external("weights.bin", size=1 << 17, count=500, step=4), "more than 4 times"),
    "file that is too short": (lambda: external("weights.bin", size=1 << 30), "are needed"),
    "branches in branches": (lambda: inside_branches(2000), "is not an ONNX model"),
    "functions twice each": (lambda: doubled(60), "the model has 1152921504606846976 nodes"),
    "functions in a row": (
        lambda: functions([helper.make_node("Neg", ["a"], ["b"])], *([call(k, "a", "b")] for k in range(500))),
        "is called through more than 100 others",
    ),
    "function of itself": (lambda: functions([call(0, "a", "b")]), "'l.f0' calls itself"),
    "functions in a ring": (lambda: functions([call(1, "a", "b")], [call(0, "a", "b")]), "calls itself"),
    "circle": (lambda: graph("a = Add(x, b) b = Add(a, x) y = Relu(b)"), "not acyclic"),
    "node of itself": (lambda: graph("y = Add(x, y)"), "not acyclic"),
    "nodes": (many_nodes, "the model has 100001 nodes"),
    "name that is no text": (lambda: renamed(b"\xff\xfe\xff\xfe\xff\xfe"), "is not UTF-8"),
    "name that never ends": (lambda: graph("y = Foo(x)".replace("Foo", "F" * 500_000)), "has 500000 characters"),
    "custom operator": (
        lambda: made_of("b = com.microsoft.EPContext<ep_cache_context = \"/etc/passwd\", embed_mode = 0>(x)"),
        "EPContext",
    ),
    "operator of a library": (lambda: graph("y = evil.Run<library = \"./evil.so\">(x)"), "does not have evil.Run"),
    "noise": (lambda: np.random.default_rng(0).bytes(4000), "is not an ONNX model"),
    "field longer than the file": (lambda: b"\x3a\xff\xff\xff\xff\xff\xff\xff\x7f", "is not an ONNX model"),
    "nothing": (lambda: b"", "holds no ONNX graph"),
}  # fmt: skip


def write(folder: Path, kind: str) -> Path:
    """The file of a kind in a folder, with what lies beside it."""
    beside = {"link.bin": "/etc/passwd", "linked": "/etc"}
    for name, target in beside.items():
        if not (folder / name).is_symlink():
            os.symlink(target, folder / name)
    for name, size in (("weights.bin", 1 << 20), ("hole.bin", TERA), ("hard.bin", 12)):
        with open(folder / name, "wb") as opened:
            opened.truncate(size)
    if not (folder / "second.bin").exists():
        os.link(folder / "hard.bin", folder / "second.bin")
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    made, file = KINDS[kind][0](), folder / f"{kind.replace(' ', '-')}.onnx"
    file.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return file

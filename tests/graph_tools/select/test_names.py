"""Tensors by name: exact, by node, by torch's module, by the end of a name; and what cannot be named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.errors import InvalidArgument, NotFound
from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.select.names import Names, names_of, resolve
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target


def parsed(body: str) -> onnx.ModelProto:
    """A model from ONNX text, with the shapes that can be inferred."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 21]> g {body}')
    return onnx.shape_inference.infer_shapes(proto)


@pytest.fixture
def graph() -> gs.Graph:
    """Returns a chain of three nodes with names of their own."""
    net = parsed("""(float[N,4] x) => (float[N,4] y) {
        enc_first_out = Relu(x)
        enc_second_out = Tanh(enc_first_out)
        y = Sigmoid(enc_second_out)
    }""")
    for node, name in zip(net.graph.node, ("enc/first/act", "enc/second/act", "dec/head"), strict=True):
        node.name = name
    return graph_of(net)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("enc_first_out", "enc_first_out"),
        ("enc/second/act", "enc_second_out"),
        ("first_out", "enc_first_out"),
        ("head", "y"),
        ("second/act", "enc_second_out"),
        ("enc/f*", "enc_first_out"),
        ("*second?out", "enc_second_out"),
        ("x", "x"),
        ("y", "y"),
    ],
)
def test_a_tensor_is_found_by_its_name_its_node_a_suffix_or_a_glob(
    graph: gs.Graph, name: str, tensor: str
) -> None:
    assert resolve(graph, name) == tensor


@pytest.mark.parametrize("name", ["act", "enc*", "_out"])
def test_a_name_of_several_tensors_is_refused_with_their_names(graph: gs.Graph, name: str) -> None:
    with pytest.raises(InvalidArgument, match="ambiguous") as caught:
        resolve(graph, name)
    assert caught.value.reason == "LAYER_AMBIGUOUS"
    assert "enc_first_out" in str(caught.value)
    assert "enc_second_out" in str(caught.value)


@pytest.mark.parametrize("name", ["enc_frist_out", "enc/frst/act", "no*thing"])
def test_an_unknown_name_is_refused_with_close_names(graph: gs.Graph, name: str) -> None:
    with pytest.raises(NotFound, match=r"close names: \S") as caught:
        resolve(graph, name)
    assert caught.value.reason == "NODE_NOT_FOUND"
    if "*" not in name:
        assert "first" in str(caught.value)


def test_an_exact_name_wins_over_names_that_end_with_it() -> None:
    net = "(float[N] x) => (float[N] y) { out = Relu(x) first_out = Tanh(out) y = Sigmoid(first_out) }"
    assert resolve(graph_of(parsed(net)), "out") == "out"


@pytest.mark.parametrize(
    ("name", "found"),
    [("out", "first_out"), ("irst_out", None), ("t", None), ("_out", "first_out"), ("first.out", None)],
)
def test_the_end_of_a_name_is_one_after_a_separator_only(name: str, found: str | None) -> None:
    graph = graph_of(parsed("(float[N] x) => (float[N] prob) { first_out = Relu(x) prob = Tanh(first_out) }"))
    if found is not None:
        assert resolve(graph, name) == found
        return
    with pytest.raises(NotFound):
        resolve(graph, name)


def test_a_letter_is_no_name_of_a_tensor_that_ends_with_it() -> None:
    with pytest.raises(NotFound, match="close names: prob"):
        resolve(graph_of(parsed("(float[N] x) => (float[N] prob) { prob = Relu(x) }")), "b")


# --- Modules of torch


SCRIPTED = [
    ("/features/features.0/Conv", ""), ("/features/features.1/Relu", ""), ("/features/features.10/Conv", ""),
    ("/layer4/layer4.1/conv2/Conv", ""), ("/layer4/layer4.1/relu/Relu", ""), ("/layer4/Add", ""),
    ("/encoder/layer.0/attention/query/MatMul", ""), ("/encoder/layer.0/attention/query/Add", ""),
    ("/encoder/layer.0/attention/Softmax", ""), ("/encoder/layer.0/output/dense/MatMul", ""), ("/Flatten", ""),
    ("/classifier/Gemm", ""),
]  # fmt: skip
LAYER = "['', 'encoder', 'encoder.layer.0']"
ATTENTION = LAYER[:-1] + ", 'encoder.layer.0.attention']"
TRACED = [
    ("node_conv", "['', 'features', 'features.0', 'conv2d']"), ("node_relu", "['', 'features', 'features.1', 'relu']"),
    ("node_conv_1", "['', 'features', 'features.10', 'conv2d_1']"),
    ("node_conv_2", "['', 'layer4', 'layer4.1', 'layer4.1.conv2', 'conv2d_2']"),
    ("node_relu_1", "['', 'layer4', 'layer4.1', 'layer4.1.relu', 'relu_1']"), ("node_add", "['', 'layer4', 'add']"),
    ("node_mm", ATTENTION[:-1] + ", 'encoder.layer.0.attention.query', 'mm']"),
    ("node_add_1", ATTENTION[:-1] + ", 'encoder.layer.0.attention.query', 'a']"),
    ("node_softmax", "['', 'encoder', 'encoder.layer.0', 'encoder.layer.0.attention', 'softmax']"),
    ("node_mm_1", LAYER[:-1] + ", 'encoder.layer.0.output', 'encoder.layer.0.output.dense', 'mm_1']"),
    ("node_flatten", "['', 'flatten']"), ("node_gemm", "['', 'classifier', 'addmm']"),
]  # fmt: skip
MODULES = {
    "features": 2, "features.0": 0, "features.1": 1, "features.10": 2, "layer4": 5, "layer4.1": 4, "layer4.1.conv2": 3,
    "layer4.1.relu": 4, "encoder.layer.0.attention.query": 7, "layer.0.attention": 8, "encoder.layer.0.attention": 8,
    "attention.query": 7, "encoder.layer.0": 9, "encoder": 9, "encoder.layer.0.output": 9, "output.dense": 9,
    "classifier": 11,
}  # fmt: skip


def chain(nodes: Sequence[tuple[str, str]], key: str = "pkg.torch.onnx.name_scopes") -> onnx.ModelProto:
    """A chain of Tanh nodes `v0, v1, ...` of these names, and of these scopes where they are said."""
    made = [
        helper.make_node("Tanh", [f"v{k - 1}" if k else "x"], [f"v{k}"], name)
        for k, (name, _) in enumerate(nodes)
    ]
    for node, (_, scopes) in zip(made, nodes, strict=True):
        if scopes:
            node.metadata_props.add(key=key, value=scopes)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2])
        for name in ("x", f"v{len(nodes) - 1}")
    ]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def tensor_of(proto: onnx.ModelProto, name: str) -> str:
    return resolve(graph_of(onnx.shape_inference.infer_shapes(proto)), name, names_of(proto))


@pytest.mark.parametrize("exporter", [SCRIPTED, TRACED], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_torch_is_the_last_tensor_that_leaves_it(
    exporter: list[tuple[str, str]], module: str
) -> None:
    assert tensor_of(chain(exporter), module) == f"v{MODULES[module]}"


def test_a_part_of_a_path_is_a_module_as_the_file_writes_it() -> None:
    scripted = chain(SCRIPTED)
    for name, found in (
        ("/features/features.0", 0),
        ("features/features.0", 0),
        ("/layer4", 5),
        ("attention/query", 7),
    ):
        assert tensor_of(scripted, name) == f"v{found}"
    keras = chain([("model/dense/MatMul", ""), ("model/dense/BiasAdd", ""), ("model/act/Relu", "")])
    assert [tensor_of(keras, name) for name in ("dense", "model/dense", "act", "model")] == [
        "v1",
        "v1",
        "v2",
        "v2",
    ]


def test_the_namespace_says_the_modules_too() -> None:
    spaces = [
        ("a", ": net.Net/layer1: torch.nn.Sequential/layer1.0: net.Block/conv2d: aten.conv2d.default"),
        ("b", ": net.Net/layer1: torch.nn.Sequential/relu: aten.relu.default"),
        ("c", ": net.Net/mean: aten.mean.dim"),
    ]
    proto = chain(spaces, "namespace")
    assert [tensor_of(proto, name) for name in ("layer1.0", "layer1")] == ["v0", "v1"]


@pytest.mark.parametrize(
    "nodes",
    [
        [("/block/relu/Relu", ""), ("/block/conv/Conv", ""), ("/block/relu_1/Relu", ""), ("/Add", "")],
        [("a", "['', 'block', 'block.relu', 'relu']"), ("b", "['', 'block', 'conv']"),
         ("c", "['', 'block', 'block.relu', 'relu_1']"), ("d", "['', 'add']")],
    ],
    ids=["torchscript", "dynamo"],
)  # fmt: skip
def test_a_module_that_is_called_twice_is_ambiguous(nodes: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidArgument, match=r"'block\.relu' is ambiguous; it matches: v0, v2"):
        tensor_of(chain(nodes), "block.relu")
    assert tensor_of(chain(nodes), "block") == "v2"


def test_a_module_of_a_name_with_a_number_and_weights_of_its_own_is_another_one() -> None:
    proto = chain([("/relu/Relu", ""), ("/relu_1/Relu", ""), ("/Add", "")])
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "relu_1.weight"))
    assert [tensor_of(proto, name) for name in ("relu", "relu_1")] == ["v0", "v1"]


def test_modules_without_scopes_are_known_by_their_weights() -> None:
    proto = parsed(
        "(float[N,2] x) => (float[N,2] y) "
        "<float[2,2] W = {1,2,3,4}, float[2] b = {1,2}> { m = MatMul(x, W) a = Add(m, b) y = Tanh(a) }"
    )
    for node in proto.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = {"W": "fc.weight", "b": "fc.bias"}.get(name, name)
    for tensor in proto.graph.initializer:
        tensor.name = {"W": "fc.weight", "b": "fc.bias"}[tensor.name]
    assert tensor_of(proto, "fc") == "a"


# --- What cannot be named, or is called otherwise


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def asked(engine: Engine, proto: onnx.ModelProto, name: str) -> str:
    engine.add("net", proto)
    x = np.ones((1, 2), np.float32)
    answer = engine.attribute(
        AttributionRequest("net", {"x": x}, "neuron_ig", [name], target=Target(index=0))
    )
    (layer,) = answer.layers
    return layer


def test_nodes_of_one_name_are_ambiguous_and_listed(engine: Engine) -> None:
    proto = parsed("(float[N,2] x) => (float[N,2] y) { a = Relu(x) b = Tanh(a) y = Exp(b) }")
    for node, name in zip(proto.graph.node, ("act", "act", "end"), strict=True):
        node.name = name
    with pytest.raises(InvalidArgument, match="'act' is ambiguous; it matches: a, b"):
        asked(engine, proto, "act")
    assert asked(engine, proto, "end") == "y"


BODY = """(float[N,2] x) => (float[N,2] y) {
    n = Constant<value = int64 {2}>() go = Constant<value = bool {1}>() start = Relu(x)
    last = Loop(n, go, start) <body = step (int64 i, bool c, float[N,2] s) => (bool c2, float[N,2] s2) {
        c2 = Identity(c) inner_tanh = Tanh(s) s2 = Add(inner_tanh, s)
    }>
    y = Neg(last)
}"""


@pytest.mark.parametrize("name", ["inner_tanh", "tanh", "s", "c2"])
def test_a_layer_inside_a_body_is_refused_as_that(engine: Engine, name: str) -> None:
    proto = parsed(BODY)
    next(node for node in proto.graph.node if node.op_type == "Loop").name = "turns"
    with pytest.raises(InvalidArgument, match=r"lies inside the Loop 'turns', .*its output 'last'"):
        asked(engine, proto, name)
    assert asked(engine, proto, "turns") == "last"


FUNCTIONS = """<ir_version: 9, opset_import: ["" : 21, "local" : 1]>
g (float[N,2] x) => (float[N,2] y) { h = local.block(x) y = local.block(h) }
<opset_import: ["" : 21, "local" : 1], domain: "local"> block (a) => (b) { c = local.inner(a) b = Tanh(c) }
<opset_import: ["" : 21], domain: "local"> inner (a) => (b) { c = Exp(a) b = Neg(c) }"""


def test_a_call_of_a_function_is_called_as_its_caller_calls_it(engine: Engine) -> None:
    proto = onnx.parser.parse_model(FUNCTIONS)
    for node, name in zip(proto.graph.node, ("first", "second"), strict=True):
        node.name = name
    assert [asked(engine, proto, name) for name in ("first", "second")] == ["h", "y"]


def test_a_call_of_a_function_with_two_outputs_is_called_for_the_first(engine: Engine) -> None:
    two = FUNCTIONS.replace("h = local.block(x) y = local.block(h)", "h, k = local.block(x) y = Mul(h, k)")
    two = two.replace("block (a) => (b)", "block (a) => (b, c)")
    proto = onnx.parser.parse_model(two)
    proto.graph.node[0].name = "call"
    assert asked(engine, proto, "call") == "h"


def test_a_call_inside_a_function_is_ambiguous_only_if_the_function_is_called_twice(engine: Engine) -> None:
    proto = onnx.parser.parse_model(FUNCTIONS)
    proto.functions[0].node[0].name = "nested"
    with pytest.raises(InvalidArgument, match="'nested' is ambiguous"):
        asked(engine, proto, "nested")
    once = onnx.parser.parse_model(FUNCTIONS.replace("y = local.block(h)", "y = Neg(h)"))
    once.functions[0].node[0].name = "nested"
    engine.add("once", once)
    x = np.array([[0.5, 1.0]], np.float32)
    found = asked(engine, once, "nested")
    value = np.asarray(engine.predict("net", {"x": x}, [found])[found], np.float64)
    np.testing.assert_allclose(value, -np.exp(x), rtol=1e-6)  # of float32


@pytest.mark.parametrize("name", ["features.weight", "folded.weight"])
def test_a_weight_is_refused_as_a_layer_with_the_output_of_its_reader(engine: Engine, name: str) -> None:
    proto = parsed(
        "(float[N,2] x) => (float[N,2] y) <float[2,2] w = {1,2,3,4}> { a = MatMul(x, w) y = Tanh(a) }"
    )
    proto.graph.node[0].input[1] = name
    proto.graph.initializer[0].name = name
    if name == "folded.weight":  # the constant that is read is another one
        proto.graph.node.insert(0, helper.make_node("Transpose", [name], ["turned"]))
        proto.graph.node[1].input[1] = "turned"
    with pytest.raises(InvalidArgument, match=f"{name}' is a (constant|weight)") as caught:
        asked(engine, proto, name)
    if name == "features.weight":
        assert "the output of the node that reads it is 'a'" in str(caught.value)


def test_an_unknown_model_is_refused_with_close_names_only() -> None:
    with Engine(provider="cpu", threads=1) as engine:
        for name in ("resnet18", "resnet50", "bert", "whisper"):
            engine.add(name, parsed("(float[N] x) => (float[N] y) { y = Relu(x) }"))
        with pytest.raises(NotFound, match=r"no model 'resnet'; close names: resnet\d\d, resnet\d\d$"):
            engine.info("resnet")
        with pytest.raises(NotFound, match=r"no model 'qqq'$"):
            engine.info("qqq")


def test_a_file_that_says_nothing_has_its_tensors_only() -> None:
    found = names_of(parsed("(float[N] x) => (float[N] y) { y = Relu(x) }"))
    assert found == Names(tensors=frozenset({"y"}))


def test_what_identity_hands_on_keeps_its_names(engine: Engine) -> None:
    """Whichever of the names the graph has left."""
    engine.add(
        "net",
        parsed("(float[N,2] x) => (float[N,2] y) { a = Tanh(x) b = Identity(a) c = Identity(b) y = Exp(c) }"),
    )
    inputs = {"x": np.array([[0.5, -1]], np.float32)}
    for name in ("a", "b", "c"):
        found = engine.attribute(
            AttributionRequest("net", inputs, "gradient", layers=[name], target=Target(index=1))
        )
        (layer,) = found.layers.values()
        np.testing.assert_allclose(layer.values.astype(np.float64), [[0, np.exp(np.tanh(-1))]], rtol=1e-6)


def test_a_tensor_that_no_output_depends_on_is_refused_as_that(engine: Engine) -> None:
    engine.add("net", parsed("(float[N,2] x) => (float[N,2] y) { a = Tanh(x) y = Exp(x) }"))
    inputs = {"x": np.array([[0.5, -1]], np.float32)}
    with pytest.raises(InvalidArgument, match="'a' is no tensor of what computes the outputs"):
        engine.attribute(AttributionRequest("net", inputs, "gradient", layers=["a"], target=Target(index=1)))

"""Weights apart from their model: the same values, once in memory, and never those of another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir import weights as weights_module
from onnx_attribution.graph_tools.ir.weights import Weights, value_of, whole
from onnx_attribution.graph_tools.programs.path import path_program
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.read.load import ModelSource, load
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import AttributionRequest, Target

Floats = NDArray[np.float32]
LARGE = 1 << 10
BACKEND = Backend("cpu")


def dense(W: Floats) -> onnx.ModelProto:
    """The network `y = x W` with a small bias of ones."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> dense (float[N,30] x) => (float[N,20] y)'
        " { z = MatMul(x, W) y = Add(z, b) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(W, "W"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(20, np.float32), "b"))
    return model


def in_one_file(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "dense.onnx"
    onnx.save(model, str(path))
    return path


def in_two_files(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "dense.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="dense.data", size_threshold=LARGE)
    return path


def in_two_files_unaligned(model: onnx.ModelProto, folder: Path) -> Path:
    """As files are whose writer pays no heed to where a page or a number begins."""
    path, copy = folder / "dense.onnx", onnx.ModelProto()
    copy.CopyFrom(model)
    (folder / "dense.data").write_bytes(b"odd" + copy.graph.initializer[0].raw_data)
    weights_module.place(copy.graph.initializer[0], "dense.data", 3, len(copy.graph.initializer[0].raw_data))
    copy.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(copy.SerializeToString())
    return path


@pytest.fixture
def W(rng: np.random.Generator) -> Floats:
    """Returns weights above `LARGE`."""
    return rng.normal(size=(30, 20)).astype(np.float32)


@pytest.fixture
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes models of some kilobytes go the way of those that a protobuf message cannot hold."""
    monkeypatch.setattr(weights_module, "LARGE", LARGE)


def run(model: onnx.ModelProto, **inputs: Floats) -> dict[str, Any]:
    return dict(BACKEND.session(model).run({n.replace("__", "/"): a for n, a in inputs.items()}))


FILES = pytest.mark.parametrize("saved", [in_one_file, in_two_files, in_two_files_unaligned])
Saved = Callable[[onnx.ModelProto, Path], Path]


@FILES
def test_a_large_weight_is_apart_and_has_the_values_of_the_file(
    tmp_path: Path, W: Floats, saved: Saved
) -> None:
    weights = Weights(LARGE)
    model = load(saved(dense(W), tmp_path), weights)
    assert model.ByteSize() < W.nbytes
    assert len(weights.held) == 1
    tensors = {t.name: t for t in model.graph.initializer}
    np.testing.assert_array_equal(value_of(tensors["W"]), W)
    np.testing.assert_array_equal(value_of(tensors["b"]), np.ones(20, np.float32))
    np.testing.assert_array_equal(numpy_helper.to_array(whole(model).graph.initializer[0]), W)


@pytest.mark.parametrize("bytes_first", [False, True])
def test_bytes_and_protos_have_their_weights_apart_too(W: Floats, bytes_first: bool) -> None:
    source = dense(W)
    weights = Weights(LARGE)
    model = load(source.SerializeToString() if bytes_first else source, weights)
    assert model.ByteSize() < W.nbytes
    np.testing.assert_array_equal(value_of(model.graph.initializer[0]), W)


def test_values_that_are_not_raw_are_taken_too(W: Floats) -> None:
    source = dense(W)
    source.graph.initializer[0].CopyFrom(helper.make_tensor("W", TensorProto.FLOAT, W.shape, W.reshape(-1)))
    assert source.graph.initializer[0].float_data
    weights = Weights(LARGE)
    model = load(source.SerializeToString(), weights)
    assert model.ByteSize() < W.nbytes
    np.testing.assert_array_equal(value_of(model.graph.initializer[0]), W)


def test_types_that_numpy_does_not_have_stay_in_the_model(W: Floats) -> None:
    source = dense(W)
    source.graph.initializer[0].CopyFrom(numpy_helper.from_array(W.astype(ml_dtypes.bfloat16), "W"))
    weights = Weights(LARGE)
    assert load(source.SerializeToString(), weights) == source
    assert not weights.held


@pytest.mark.usefixtures("_small_is_large")
@FILES
def test_gradients_of_a_model_with_weights_apart_are_those_weights(
    tmp_path: Path, W: Floats, saved: Saved
) -> None:
    model = LoadedModel(saved(dense(W), tmp_path), BACKEND)
    assert model.network.batch == "dynamic"
    x, seed = np.ones((2, 30), np.float32), np.zeros((2, 20), np.float32)
    seed[0, 3], seed[1, 4] = 1, 2
    program = rows_program(model.network, Choice(("x",), ("x",), "y"))
    assert program.model.ByteSize() < W.nbytes
    found = run(program.model, x=x, target__weight=seed)
    np.testing.assert_allclose(found["gradient/x"], [W[:, 3], 2 * W[:, 4]], rtol=1e-6)
    np.testing.assert_allclose(found["target/value"], [W[:, 3].sum() + 1, 2 * (W[:, 4].sum() + 1)], rtol=1e-5)


@pytest.mark.usefixtures("_small_is_large")
def test_programs_of_one_model_share_its_weights(tmp_path: Path, W: Floats) -> None:
    model = LoadedModel(in_one_file(dense(W), tmp_path), BACKEND)
    choice = Choice(("x",), ("z",), "y")
    model.rows_of(["x", "z", "y"])
    programs: list[Program] = [rows_program(model.network, choice), path_program(model.network, choice)]
    held = [weights_module.weights_of(p.model.graph.initializer)["W"] for p in programs]
    assert held[0].data is held[1].data


@pytest.mark.parametrize("shape", [(1, 600), (1, 3, 600), (1, 2, 3, 600)])
def test_a_gradient_reads_a_large_matrix_as_it_lies(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    W = rng.normal(size=(600, 500)).astype(np.float32)
    dims = ",".join(["N", *map(str, shape[1:-1])])
    source = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> m (float[{dims},600] x) => (float[{dims},500] y)'
        " { y = MatMul(x, W) }"
    )
    source.graph.initializer.append(numpy_helper.from_array(W, "W"))
    model = LoadedModel(source, BACKEND)
    program = rows_program(model.network, Choice(("x",), ("x",), "y")).model
    assert "Transpose" not in {node.op_type for node in program.graph.node}
    x, seed = (rng.normal(size=(2, *shape[1:-1], n)).astype(np.float32) for n in W.shape)
    found = run(program, x=x, target__weight=seed)
    np.testing.assert_allclose(found["gradient/x"], seed @ W.T, rtol=1e-4, atol=1e-4)


def test_a_weight_that_the_runtime_turns_is_turned(rng: np.random.Generator) -> None:
    """onnxruntime cancels both transpositions and turns the square W, under its name."""
    W = rng.normal(size=(20, 20)).astype(np.float32)
    source = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> turning (float[N,20,20] x) => (float[N,20,20] y) {'
        " t = Transpose<perm=[0,2,1]>(x) s = Add(t, W) r = Relu(s) y = Transpose<perm=[0,2,1]>(r) }"
    )
    source.graph.initializer.append(numpy_helper.from_array(W, "W"))
    weights = Weights(LARGE)
    x = rng.normal(size=(2, 20, 20)).astype(np.float32)
    np.testing.assert_allclose(run(load(source, weights), x=x)["y"], np.maximum(x + W.T, 0), rtol=1e-6)


def test_weights_in_a_file_and_in_memory_go_together(tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = (rng.normal(size=(20, 20)).astype(np.float32) for _ in range(2))
    source = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> both (float[N,20] x) => (float[N,20] y)'
        " { h = MatMul(x, first) y = MatMul(h, second) }"
    )
    for name, array in (("first", first), ("second", second)):
        source.graph.initializer.append(numpy_helper.from_array(array, name))
    (tmp_path / "first.data").write_bytes(first.tobytes())
    source.graph.initializer[0].ClearField("raw_data")
    weights_module.place(source.graph.initializer[0], "first.data", 0, first.nbytes)
    path = tmp_path / "both.onnx"
    path.write_bytes(source.SerializeToString())
    weights = Weights(LARGE)
    model = load(path, weights)
    assert len(weights.held) == 2
    found = run(model, x=np.eye(20, dtype=np.float32))
    np.testing.assert_allclose(found["y"], first @ second, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_small_is_large")
def test_a_session_made_after_the_file_was_replaced_has_the_weights_of_the_model(
    tmp_path: Path, W: Floats
) -> None:
    path = in_one_file(dense(W), tmp_path)
    model = LoadedModel(path, BACKEND)
    in_one_file(dense(W + 1), tmp_path)
    found = run(model.network.model, x=np.eye(30, dtype=np.float32))
    np.testing.assert_allclose(found["y"], W + 1, rtol=1e-6)  # the bias


def _overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))


def _truncate(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(0)


@pytest.mark.usefixtures("_small_is_large")
@pytest.mark.parametrize("spoil", [_overwrite, _truncate, Path.unlink])
@pytest.mark.parametrize("saved", [in_two_files, in_two_files_unaligned])
def test_what_happens_to_a_file_after_it_was_loaded_changes_no_answer(
    tmp_path: Path, W: Floats, saved: Saved, spoil: Callable[[Path], None]
) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("dense", saved(dense(W), tmp_path))
        engine.predict("dense", {"x": np.ones((1, 30), np.float32)})  # its session stays
        spoil(tmp_path / "dense.data")
        found: dict[str, Any] = engine.predict("dense", {"x": np.eye(30, dtype=np.float32)})
        np.testing.assert_allclose(found["y"], W + 1, rtol=1e-6)
        ask = AttributionRequest(
            "dense", {"x": np.ones((1, 30), np.float32)}, "gradient", target=Target("y", 3)
        )
        np.testing.assert_allclose(engine.attribute(ask).layers["x"].values[0], W[:, 3], rtol=1e-6)


def test_a_file_cannot_name_the_weights_of_another(tmp_path: Path, W: Floats) -> None:
    weights = Weights(LARGE)
    load(dense(W), weights)
    family, number = weights.location.split("/")
    assert len(number) >= 32  # drawn, not counted
    guessed = dense(W)
    guessed.graph.initializer[0].ClearField("raw_data")
    weights_module.place(guessed.graph.initializer[0], f"{family}/0", 0, W.nbytes)
    path = tmp_path / "guessed.onnx"
    path.write_bytes(guessed.SerializeToString())
    with pytest.raises(ModelError, match="missing"):
        load(path)


def test_weights_that_nobody_keeps_are_missed_by_name(W: Floats) -> None:
    model = load(dense(W), Weights(LARGE))
    with pytest.raises(ModelError, match="the values of 'W' are not there any more"):
        value_of(model.graph.initializer[0])


@pytest.mark.parametrize("cut", [1, 700, 2500])
def test_a_file_that_ends_too_early_is_no_model(tmp_path: Path, W: Floats, cut: int) -> None:
    path = in_one_file(dense(W), tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ModelError, match=r"'dense\.onnx' is not an ONNX model"):
        load(path, Weights(LARGE))


def _tensor(data_type: int, dims: list[int], **data: Any) -> TensorProto:
    return TensorProto(name="W", data_type=data_type, dims=dims, **data)


@pytest.mark.parametrize("form", [bytes, onnx.ModelProto, Path])
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (_tensor(TensorProto.FLOAT, [4], raw_data=bytes(80000)), r"80000 bytes.*\[4\] take 16"),
        (_tensor(TensorProto.FLOAT, [30, 20], raw_data=bytes(16)), r"16 bytes.*\[30, 20\] take 2400"),
        (_tensor(TensorProto.FLOAT, [30, 20], raw_data=bytes(2404)), r"2404 bytes.*\[30, 20\] take 2400"),
        (_tensor(TensorProto.FLOAT, [1 << 40]), r"0 values.*take 1099511627776"),
        (_tensor(TensorProto.FLOAT, [30, 20], float_data=[1.0] * 599), r"599 values.*take 600"),
        (_tensor(TensorProto.COMPLEX64, [3], float_data=[1.0] * 3), r"3 values.*take 6"),
        (_tensor(TensorProto.INT4, [5], int32_data=[1] * 5), r"5 values.*take 3"),
        (_tensor(TensorProto.STRING, [2], string_data=[b"one"]), r"1 values.*take 2"),
        (_tensor(TensorProto.FLOAT, [-30, -20], raw_data=bytes(2400)), r"\[-30, -20\], with a negative size"),
    ],
)
def test_values_that_are_not_as_many_as_the_shape_takes_are_refused(
    tmp_path: Path, W: Floats, form: type, tensor: TensorProto, words: str
) -> None:
    model = dense(W)
    model.graph.initializer[0].CopyFrom(tensor)
    sources: dict[type, ModelSource] = {
        bytes: model.SerializeToString(),
        onnx.ModelProto: model,
        Path: in_one_file(model, tmp_path),
    }
    for weights in (Weights(LARGE), None):
        with pytest.raises(ModelError, match=f"tensor 'W' .*{words}") as refusal:
            load(sources[form], weights)
        assert refusal.value.reason == "MODEL_INVALID"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5).astype(ml_dtypes.int4),
        np.arange(5).astype(ml_dtypes.uint2),
        np.arange(3).astype(np.complex64),
        np.arange(3).astype(ml_dtypes.bfloat16),
        np.arange(3).astype(ml_dtypes.float8_e4m3fn),
        np.ones((0, 3), np.float32),
    ],
    ids=lambda array: str(array.dtype),
)
def test_tensors_as_onnx_writes_them_have_as_many_values_as_their_shape_takes(array: NDArray[Any]) -> None:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    typed = helper.make_tensor("W", kind, array.shape, array.astype(object).reshape(-1))
    for tensor in (typed, numpy_helper.from_array(array, "W")):
        weights_module.require_values(tensor)


@pytest.mark.parametrize("method", ["gradient", "deeplift_rescale", "deeplift_reveal_cancel"])
def test_a_weight_that_only_a_branch_reads_is_read_there(method: str) -> None:
    """The sum of x W is its own change from zeros, and its gradient the sums of the rows of W."""
    W = np.random.default_rng(1).normal(size=(200, 200)).astype(np.float32)  # 160 kB: held apart
    other = "() => (float[N,M] b) { b = Neg(h) }>"
    inner = f"<then_branch = u () => (float[N,M] d) {{ d = MatMul(x, W) }}, else_branch = v {other}"
    outer = f"<then_branch = t () => (float[N,M] a) {{ a = If(c) {inner} }}, else_branch = e {other}"
    text = f"""g (float[N,{W.shape[0]}] x, bool c) => (float[N] y) {{ h = MatMul(x, V) p = If(c) {outer}
        k = Constant<value = int64[1] {{1}}>() y = ReduceSum<keepdims = 0>(p, k) }}"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    small = np.zeros((W.shape[0], 1), np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in (("W", W), ("V", small)))
    x = np.random.default_rng(0).normal(size=(2, W.shape[0])).astype(np.float32)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", model)
        found = engine.attribute(AttributionRequest("net", {"x": x, "c": np.array(True)}, method))
    wanted = W.astype(np.float64).sum(axis=1) * (x if method != "gradient" else np.ones_like(x))
    values = found.layers["x"].values.astype(np.float64)
    np.testing.assert_allclose(values, wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max()))

"""A model is looked at without its weights and without onnxruntime: what cannot be served is known beforehand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnx_attribution.errors import InvalidArgument, ModelError, NotFound
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.values import ModelInfo

NET = """
<ir_version: 8, opset_import: ["" : 17{more}]> net (float[N,2] x) => (float[N,2] y) {{
    h = Sin(x)
    y = {last}
}}{functions}
"""


def net(last: str, more: str = "", functions: str = "") -> onnx.ModelProto:
    return parse_model(NET.format(last=last, more=more, functions=functions))


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """The models that sessions were made of so far."""
    found: list[onnx.ModelProto] = []
    session = Backend.session

    def told(backend: Backend, model: onnx.ModelProto, **options: bool) -> object:
        found.append(model)
        return session(backend, model, **options)

    monkeypatch.setattr(Backend, "session", told)
    return found


def looked(engine: Engine, file: Path) -> ModelInfo:
    engine.add("m", file)
    info = engine.look("m")
    assert engine.models() == [info]
    return info


KNOWN = {
    "of ONNX": net("Relu(h)"),
    "of onnxruntime": net("com.microsoft.QuickGelu(h)", ', "com.microsoft" : 1'),
    "a function of the file": net(
        "local.twice(h)",
        ', "local" : 1',
        '<domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }',
    ),
    "inside of a branch": net(
        "If(on) <then_branch = t () => (float[N,2] p) { p = Abs(h) }, "
        "else_branch = e () => (float[N,2] q) { q = Neg(h) }>"
    ),
}
KNOWN["inside of a branch"].graph.initializer.append(helper.make_tensor("on", TensorProto.BOOL, [], [True]))


@pytest.mark.parametrize("kind", KNOWN)
def test_a_file_of_known_operators_is_not_loaded(
    engine: Engine, sessions: list[onnx.ModelProto], tmp_path: Path, kind: str
) -> None:
    onnx.save(KNOWN[kind], tmp_path / "m.onnx")
    assert looked(engine, tmp_path / "m.onnx").state == "UNLOADED"
    assert sessions == []
    assert engine.predict("m", {"x": np.ones((1, 2), np.float32)})["y"].shape == (1, 2)


def alone(operator: str, opset: int = 17, more: str = "") -> Callable[[Path], None]:
    """Writes a model of one operator."""

    def write(file: Path) -> None:
        model = net("Relu(h)", more)
        del model.graph.node[:]
        domain, _, name = operator.rpartition("::")
        model.graph.node.append(helper.make_node(name, ["x"], ["y"], name="only", domain=domain))
        model.opset_import[0].version = opset
        onnx.save(model, file)

    return write


def without_values(file: Path) -> None:
    model = net("Add(h, w)")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    onnx.save(model, file, save_as_external_data=True, location="w.bin", size_threshold=0)
    file.with_name("w.bin").unlink()


def of_a_later_opset(file: Path) -> None:
    alone("Relu", 99)(file)


def with_a_wrong_card(file: Path) -> None:
    alone("Relu")(file)
    file.with_suffix(".toml").write_text("nonsense = 1")


def of_a_sequence(file: Path) -> None:
    model = alone("Relu")
    model(file)
    found = onnx.load(file)
    found.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [None, 2]))
    onnx.save(found, file)


FAILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model": (lambda file: file.write_bytes(b"no model"), "not an ONNX model"),
    "an empty file": (lambda file: file.write_bytes(b""), "no ONNX graph"),
    "values that are missing": (without_values, "'w.bin', which is missing"),
    "a later opset": (of_a_later_opset, "opset 99"),
    "a wrong card": (with_a_wrong_card, "nonsense"),
    "a sequence": (of_a_sequence, "'x' is a sequence"),
    "an operator of nobody": (alone("nowhere::Own", more=', "nowhere" : 1'), "nowhere.Own"),
    "an operator of a domain that is not imported": (alone("elsewhere::Own"), "elsewhere"),
    "an operator of a later opset": (alone("HardSwish", 10), "HardSwish"),
    "an operator of an earlier opset": (alone("Upsample", 17), "Upsample"),
}


@pytest.mark.parametrize("kind", FAILED)
def test_what_cannot_be_served_is_known_when_it_was_looked_at(
    engine: Engine, tmp_path: Path, kind: str
) -> None:
    write, why = FAILED[kind]
    write(tmp_path / "m.onnx")
    info = looked(engine, tmp_path / "m.onnx")
    assert (info.state, why in info.reason) == ("FAILED", True), info.reason
    with pytest.raises(ModelError) as caught:
        engine.info("m")
    assert caught.value.message == info.reason


def test_what_loading_says_is_what_looking_says(tmp_path: Path) -> None:
    for write, _ in FAILED.values():
        file = tmp_path / "m.onnx"
        write(file)
        told = []
        for ask in (Engine.look, Engine.info):
            with Engine(provider="cpu", threads=1) as engine:
                engine.add("m", file)
                try:
                    told.append(ask(engine, "m").reason)
                except ModelError as error:
                    told.append(error.message)
        assert told[0] == told[1]
        file.with_suffix(".toml").unlink(missing_ok=True)


def test_a_model_that_ends_before_an_unknown_operator_is_served_and_closed_again(
    engine: Engine, sessions: list[onnx.ModelProto], tmp_path: Path
) -> None:
    onnx.save(net("nowhere.Own(h)", ', "nowhere" : 1'), tmp_path / "m.onnx")
    assert looked(engine, tmp_path / "m.onnx").state == "UNLOADED"
    assert sessions
    assert engine.predict("m", {"x": np.ones((1, 2), np.float32)}, ["h"])["h"].shape == (1, 2)


def test_a_loaded_model_stays_as_it_is(engine: Engine, tmp_path: Path) -> None:
    onnx.save(net("nowhere.Own(h)", ', "nowhere" : 1'), tmp_path / "m.onnx")
    engine.add("m", tmp_path / "m.onnx")
    engine.info("m")
    assert engine.look("m").state == "READY"


def test_weights_are_not_read(engine: Engine, tmp_path: Path) -> None:
    size = 16 << 20
    model = net("Add(h, w)")
    values = np.zeros(size // 4, np.float32).tobytes()
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[1, size // 4], raw_data=values))
    onnx.save(model, tmp_path / "m.onnx")
    del model, values
    engine.add("m", tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        assert engine.look("m").state == "UNLOADED"
        assert tracemalloc.get_traced_memory()[1] < size / 8
    finally:
        tracemalloc.stop()


def test_a_file_that_is_mended_is_served(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"no model")
    assert looked(engine, file).state == "FAILED"
    onnx.save(net("Relu(h)"), file)
    [info] = engine.models()
    assert info.state == "UNLOADED"
    assert engine.info("m").state == "READY"


def test_values_that_are_mended_in_place_are_seen(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    without_values(file)
    (tmp_path / "w.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="has 0 bytes"):
        looked(engine, file) and engine.info("m")
    with (tmp_path / "w.bin").open("r+b") as opened:
        opened.write(np.array([1, 2], "<f4").tobytes())
    y = engine.predict("m", {"x": np.zeros((1, 2), np.float32)})["y"]
    assert y.tolist() == [[1, 2]]


def test_a_card_that_is_mended_is_seen(engine: Engine, tmp_path: Path) -> None:
    with_a_wrong_card(tmp_path / "m.onnx")
    assert looked(engine, tmp_path / "m.onnx").state == "FAILED"
    (tmp_path / "m.toml").write_text("description = 'rectified'")
    assert engine.info("m").description == "rectified"


def test_what_stays_broken_stays_known(
    engine: Engine, sessions: list[onnx.ModelProto], tmp_path: Path
) -> None:
    alone("nowhere::Own", more=', "nowhere" : 1')(tmp_path / "m.onnx")
    looked(engine, tmp_path / "m.onnx")
    tries = len(sessions)
    for _ in range(3):
        with pytest.raises(ModelError):
            engine.info("m")
    assert len(sessions) == tries


def test_a_model_that_is_not_there_cannot_be_looked_at(engine: Engine) -> None:
    with pytest.raises(NotFound):
        engine.look("m")
    with pytest.raises(InvalidArgument):
        engine.add("", b"")

"""What the services answer, as a client of the bare messages sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from onnx_attribution import errors
from onnx_attribution.client.errors import translated
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import tensors
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, W, X
from tests.server.stubs import INPUT, Stubs, ask, serving


@pytest.fixture(scope="module")
def stubs() -> Iterator[Stubs]:
    with serving() as stubs:
        yield stubs


@pytest.fixture(autouse=True)
def healthy_after(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test sent to the shared server, the next good request succeeds."""
    yield
    if "stubs" in request.fixturenames:
        stubs: Stubs = request.getfixturevalue("stubs")
        response = stubs.attributions.Predict(pb.PredictRequest(model="linear", inputs=[INPUT]), timeout=5)
        assert (tensors.decode(response.outputs[0]) == X @ W).all()


def test_every_violation_of_a_request_is_sent(stubs: Stubs) -> None:
    request = ask(
        inputs=[INPUT, INPUT, pb.Tensor(name="y", datatype="FP8")],
        neuron_ig=pb.NeuronIG(steps=0, tolerance=-1),
    )
    with pytest.raises(errors.InvalidArgument) as caught, translated():
        stubs.attributions.Attribute(request)
    assert set(caught.value.violations) == {"neuron_ig.steps", "neuron_ig.tolerance", "inputs.x", "inputs.y"}


def test_unary_answer_equals_the_streamed_one(stubs: Stubs) -> None:
    unary = stubs.attributions.Attribute(ask(request_id="mine"))
    *_, last_revision, _, _, completed = stubs.attributions.StreamAttribute(ask())
    assert unary.accepted.request_id == "mine"
    assert unary.summary == last_revision.revision.summary
    assert unary.stop_reason == completed.completed.stop_reason == pb.STOP_REASON_MAX_STEPS
    assert (tensors.decode(unary.attributions[0]) == X * W[:, 0]).all()


def test_result_too_large_for_one_message_names_the_stream(stubs: Stubs) -> None:
    with pytest.raises(errors.InvalidArgument, match="use StreamAttribute") as caught, translated():
        stubs.attributions.Attribute(ask("big"))
    assert caught.value.reason == "RESULT_TOO_LARGE"
    assert caught.value.metadata == {"limit": str(3 << 20), "actual": "12000000"}
    with pytest.raises(errors.InvalidArgument, match="fewer samples or outputs") as caught, translated():
        stubs.attributions.Predict(pb.PredictRequest(model="big", inputs=[INPUT]))
    assert caught.value.reason == "RESULT_TOO_LARGE"


def test_no_message_of_a_stream_is_over_the_limit(stubs: Stubs) -> None:
    messages = list(stubs.attributions.StreamAttribute(ask("big", layers=["a", "b"])))
    chunks = [message.chunk for message in messages if message.HasField("chunk")]
    assert max(len(chunk.data) for chunk in chunks) == tensors.CHUNK_BYTES
    assert sum(len(chunk.data) for chunk in chunks) == 2 * 2 * 12_000_000
    assert max(message.ByteSize() for message in messages) < tensors.CHUNK_BYTES + 100


def test_validation_only_accepts(stubs: Stubs) -> None:
    [message] = stubs.attributions.StreamAttribute(ask(validate_only=True))
    assert message.accepted.planned_evaluations == 64
    unary = stubs.attributions.Attribute(ask(validate_only=True))
    assert unary.accepted.target_tensor == "y"
    assert not unary.HasField("summary")


def _nested(depth: int) -> bytes:
    """A request whose parameter is a list in a list, and so on."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    message = pb.AttributeRequest(custom=pb.CustomMethod(name="neuron_ig"))
    message.custom.parameters.update({"steps": value})
    return message.SerializeToString()


@pytest.mark.parametrize("data", [b"\xff\xff\xff", _nested(60)], ids=["no message", "nested"])
def test_bytes_that_are_no_message_are_an_argument_that_is_refused(stubs: Stubs, data: bytes) -> None:
    path = "/onnx_attribution.v1.AttributionService"
    for call in (
        stubs.channel.unary_unary(f"{path}/Attribute"),
        lambda request: list(stubs.channel.unary_stream(f"{path}/StreamAttribute")(request)),
    ):
        with (
            pytest.raises(errors.InvalidArgument, match="no message of this call, or nested") as caught,
            translated(),
        ):
            call(data)
        assert caught.value.reason == "PARAMETER_INVALID"


def test_steps_that_are_left_open_end_at_the_limit_of_the_server() -> None:
    engine = FakeEngine()
    with serving(engine, max_steps=100) as own:
        own.attributions.Attribute(ask(neuron_ig=pb.NeuronIG(steps=8, tolerance=0.1)))
        own.attributions.Attribute(ask(neuron_ig=pb.NeuronIG(steps=8, max_steps=90)))
        own.attributions.Attribute(ask(gradient=pb.Gradient()))
    assert [method.parameters().get("max_steps") for method in engine.methods_asked] == [100, 90, None]


def test_call_without_a_deadline_ends_by_the_servers_default() -> None:
    with serving(stream_seconds=0.5) as stubs:
        *_, last = stubs.attributions.StreamAttribute(ask("slow"))
    assert last.completed.stop_reason == pb.STOP_REASON_DEADLINE_NEAR


def test_message_over_the_frame_limit_is_too_large() -> None:
    with serving(max_request_mib=1) as stubs:
        request = ask(inputs=[pb.Tensor(name="x", raw=bytes(2 << 20))])
        with pytest.raises(errors.MessageTooLarge, match="fewer samples"), translated():
            stubs.attributions.Attribute(request)
        assert stubs.attributions.Attribute(ask()).HasField("summary")


def test_bytes_that_are_no_message_do_no_harm(stubs: Stubs) -> None:
    call = stubs.channel.unary_unary("/onnx_attribution.v1.AttributionService/Attribute")
    with pytest.raises(grpc.RpcError):
        call(b"\xff" * 100, timeout=5)


def test_unknown_method_is_unsupported(stubs: Stubs) -> None:
    with pytest.raises(errors.Unsupported, match="of this version"), translated():
        stubs.channel.unary_unary("/onnx_attribution.v1.AttributionService/Explain")(b"", timeout=5)


def test_surplus_streams_are_refused_and_places_come_back() -> None:
    engine = FakeEngine()
    with serving(engine, max_streams=2) as stubs:
        held = [stubs.attributions.StreamAttribute(ask("slow")) for _ in range(2)]
        for stream in held:
            next(stream)
        with pytest.raises(errors.Overloaded) as caught, translated():
            next(stubs.attributions.StreamAttribute(ask()))
        assert caught.value.reason == "TOO_MANY_STREAMS"
        assert stubs.attributions.Attribute(ask()).HasField("summary")
        for stream in held:
            stream.cancel()
        assert len(_eventually(lambda: list(stubs.attributions.StreamAttribute(ask())))) > 3


def test_call_that_gets_no_turn_is_refused_in_time() -> None:
    with serving(workers=1) as stubs:
        held = stubs.attributions.StreamAttribute(ask("stuck"))
        for _ in range(3):
            next(held)
        with pytest.raises(errors.Overloaded, match="no turn") as caught, translated():
            stubs.attributions.Attribute(ask(), timeout=0.6)
        assert caught.value.reason == "QUEUE_FULL"
        held.cancel()
        assert stubs.attributions.Attribute(ask(), timeout=5).HasField("summary")


def test_cancelled_stream_stops_the_engine_within_a_slice() -> None:
    engine = FakeEngine()
    with serving(engine) as stubs:
        stream = stubs.attributions.StreamAttribute(ask("stuck"))
        for _ in range(3):
            next(stream)
        while not engine.asked:
            time.sleep(0.01)
        stream.cancel()
        assert engine.ended.wait(0.5)
    assert engine.stopped == ["cancelled"]


def test_nothing_stays_behind_after_many_cancelled_streams() -> None:
    with app.background(FakeEngine(), Settings(port=0)) as (address, server):
        stubs, held = Stubs(address), 0
        for index in range(200):
            stream = stubs.attributions.StreamAttribute(ask(("slow", "stuck", "big")[index % 3]))
            for _ in range(index % 4):
                next(stream)
            stream.cancel()
            held = max(held, server.work.running)
        for _ in range(200):
            if not server.work.running:
                break
            time.sleep(0.01)
        assert server.work.running == 0
        assert held > 0
        assert stubs.attributions.Attribute(ask(), timeout=5).HasField("summary")
        stubs.channel.close()


def test_long_slice_sends_heartbeats() -> None:
    with serving(heartbeat_seconds=0.05) as stubs:
        stream = stubs.attributions.StreamAttribute(ask("stuck"), timeout=1)
        messages = [next(stream) for _ in range(8)]
    assert [message.WhichOneof("event") for message in messages] == ["accepted"] + ["progress"] * 7
    assert messages[-1].progress.done == messages[2].progress.done == 64
    assert messages[-1].progress.seconds > messages[-2].progress.seconds


def test_slow_reader_holds_no_thread() -> None:
    with serving(workers=1) as stubs:
        held = stubs.attributions.StreamAttribute(ask("big"))
        next(held)  # and reads no further, while the server has 24 MB to send
        time.sleep(0.2)
        assert stubs.attributions.Attribute(ask(), timeout=2).HasField("summary")
        assert sum(1 for _ in held) > 20


def test_pages_follow_each_other_and_a_token_holds_for_its_query(stubs: Stubs) -> None:
    names, token = [], ""
    while True:
        request = pb.ListLayersRequest(model="linear", filter="layer1", page_size=300, page_token=token)
        page = stubs.models.ListLayers(request)
        names += [layer.name for layer in page.layers]
        token = page.next_page_token
        if not token:
            break
        assert len(page.layers) == 300
        other = pb.ListLayersRequest(model="linear", filter="layer2", page_token=token)
        with pytest.raises(errors.InvalidArgument) as caught, translated():
            stubs.models.ListLayers(other)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"
    assert names == [layer.name for layer in FakeEngine().layers("linear", "layer1")]


def test_a_page_of_many_bytes_ends_before_a_message_is_too_large() -> None:
    engine = FakeEngine()
    classes = {"y": tuple(f"class {k}" * 20 for k in range(2000))}
    engine.models = lambda: [  # type: ignore[method-assign]
        replace(engine._info("linear"), name=f"m{k}", class_names=classes) for k in range(20)
    ]
    with serving(engine) as stubs:
        request, names, pages = pb.ListModelsRequest(page_size=1000), list[str](), 0
        while not pages or request.page_token:
            page = stubs.models.ListModels(request)
            assert len(page.models) > 0
            assert page.ByteSize() < 2 << 20
            names += [one.name for one in page.models]
            request.page_token, pages = page.next_page_token, pages + 1
    assert names == sorted(f"m{k}" for k in range(20))
    assert 5 < pages <= 20


def _eventually(attempt: Any) -> Any:
    for _ in range(100):
        try:
            return attempt()
        except grpc.RpcError:
            time.sleep(0.02)
    return attempt()

"""Data sets over one stream, by both clients: what is answered, how far ahead is read, and what a break costs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2

from onnx_attribution import errors
from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.client.audit.stream import Log
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Array
from tests.server.fake_engine import FakeEngine, W
from tests.server.stubs import INPUT, Stubs, ask, serving


def rows(count: int) -> Iterator[dict[str, Array]]:
    for k in range(count):
        yield {"x": np.full((1, 3), k, np.float32)}


def test_every_item_is_answered_by_what_it_would_be_alone(client: Client) -> None:
    found = {one.sequence: one for one in client.audit("linear", rows(40), target=1)}
    assert sorted(found) == list(range(40))
    for k, one in found.items():
        assert one.error is None
        assert one.attribution is not None
        np.testing.assert_allclose(one.attribution.layers["x"].values[0], k * W[:, 1])


async def test_the_async_client_answers_alike(async_client: AsyncClient) -> None:
    found = [one async for one in async_client.audit("linear", rows(20), target=1)]
    assert sorted(one.sequence for one in found) == list(range(20))

    async def later() -> object:
        for row in rows(3):
            await asyncio.sleep(0.01)
            yield row

    assert len([one async for one in async_client.audit("linear", later())]) == 3  # type: ignore[arg-type]


def test_a_bad_item_is_answered_by_its_error_and_the_others_go_on(client: Client) -> None:
    items = [*rows(2), {"x": np.array([["a"]])}, *rows(2), {"y": np.zeros((1, 3), np.float32)}]
    found = {one.sequence: one for one in client.audit("linear", items)}
    assert len(found) == 6
    assert {k for k, one in found.items() if one.error is not None} >= {2}
    assert isinstance(found[2].error, errors.AttributionError)


def test_an_unknown_model_or_method_ends_the_audit(client: Client) -> None:
    with pytest.raises(errors.NotFound, match="nothing"):
        list(client.audit("nothing", rows(3)))
    with pytest.raises(errors.InvalidArgument, match="steps"):
        list(client.audit("linear", rows(3), method="neuron_ig", steps=0))


def test_no_more_items_are_taken_than_the_window_holds(client: Client) -> None:
    taken: list[int] = []

    def noted() -> Iterator[dict[str, Array]]:
        for k, row in enumerate(rows(60)):
            taken.append(k)
            yield row

    answers = client.audit("linear", noted(), window=4)
    next(answers)
    time.sleep(0.5)
    assert len(taken) <= 4 + 1
    assert len(list(answers)) == 59


def test_what_the_iterable_raises_reaches_the_caller(client: Client) -> None:
    def broken() -> Iterator[dict[str, Array]]:
        yield from rows(3)
        raise ValueError("I/O operation on closed file")

    with pytest.raises(ValueError, match="closed file"):
        list(client.audit("linear", broken()))


async def test_what_the_iterable_raises_reaches_the_async_caller(async_client: AsyncClient) -> None:
    def broken() -> Iterator[dict[str, Array]]:
        yield from rows(3)
        raise ValueError("I/O operation on closed file")

    with pytest.raises(ValueError, match="closed file"):
        [one async for one in async_client.audit("linear", broken())]


def test_progress_counts_answers_and_errors(client: Client) -> None:
    seen: list[tuple[int, int]] = []
    items = [*rows(2), {"x": np.array([["a"]])}]
    list(client.audit("linear", items, progress=lambda p: seen.append((p.answered, p.errors))))
    assert seen[-1] == (3, 1)


def test_a_server_that_comes_back_is_given_what_it_had_not_answered() -> None:
    engine, answered = FakeEngine(), []
    with app.background(engine, Settings(port=0, grace_seconds=0.1)) as (address, _):
        port = int(address.rsplit(":", 1)[1])
        client = Client(address)
        answers = client.audit("linear", rows(30), window=4)
        answered += [next(answers).sequence for _ in range(7)]
    with app.background(engine, Settings(port=port)):
        answered += [one.sequence for one in answers]
    client.close()
    assert sorted(answered) == list(range(30))


def opened(**fields: object) -> pb.AuditRequest:
    request = ask()
    request.ClearField("inputs")
    return pb.AuditRequest(open=pb.AuditOpen(request=request, **fields))  # type: ignore[arg-type]


def item(sequence: int) -> pb.AuditRequest:
    return pb.AuditRequest(item=pb.AuditItem(sequence=sequence, inputs=[INPUT]))


def test_items_below_resume_from_are_left_out_and_the_summary_comes_last() -> None:
    with serving() as stubs:
        sent = [opened(resume_from=2), item(0), item(1), item(2), item(5)]
        found = list(stubs.attributions.Audit(iter(sent), timeout=10))
    assert sorted(one.result.sequence for one in found if one.HasField("result")) == [2, 5]
    assert found[0].HasField("opened")
    assert (found[-1].summary.results, found[-1].summary.errors) == (2, 0)


def test_a_draining_server_answers_what_it_has_and_says_why_it_ends() -> None:
    with app.background(FakeEngine(), Settings(port=0)) as (address, server):
        stubs, gate = Stubs(address), threading.Event()

        def sent() -> Iterator[pb.AuditRequest]:
            yield opened()
            yield item(0)
            gate.wait(10)

        stream = stubs.attributions.Audit(sent(), timeout=10)
        assert next(stream).HasField("opened")
        assert next(stream).result.sequence == 0
        server.work.draining.set()
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        gate.set()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        stubs.channel.close()


def test_silence_ends_an_audit() -> None:
    with serving(audit_idle_seconds=0.5) as stubs:
        gate = threading.Event()

        def sent() -> Iterator[pb.AuditRequest]:
            yield opened()
            gate.wait(10)

        with pytest.raises(grpc.RpcError) as caught:
            list(stubs.attributions.Audit(sent(), timeout=10))
        gate.set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_audit_that_was_answered_waits_for_a_server_that_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr("onnx_attribution.client.events.time.monotonic", lambda: float(next(clock)))
    log, gone = Log("net", {}, 0), errors.NotReady("no server answers there")
    log.item({"x": np.ones((1, 2), np.float32)})
    result = pb.AuditError(sequence=0, status=status_pb2.Status(code=3))
    log.answer(pb.AuditResponse(error=result))
    assert [log.delay(gone) for _ in range(6)] == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    with pytest.raises(errors.NotReady):
        log.delay(gone)  # after more than 30 s


def test_an_audit_that_was_never_answered_gives_up_soon() -> None:
    log, gone = Log("net", {}, 0), errors.NotReady("no server answers there")
    assert [log.delay(gone) for _ in range(3)] == [0.2, 0.4, 0.8]
    with pytest.raises(errors.NotReady):
        log.delay(gone)

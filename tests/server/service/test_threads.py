"""When computations are told to stop, and how their events reach the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from onnx_attribution.errors import DeadlineExceeded, ModelError
from onnx_attribution.server.service.threads import Stop, Work
from onnx_attribution.values import Event, Progress


def test_stop_says_deadline_near_with_two_slices_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stop = Stop(12, threading.Event())
    stop.resume()
    clock[0] = 4  # loading, which is no slice
    assert stop() is None
    clock[0] = 6
    stop.has_result = True
    assert stop() is None
    stop.pause()
    clock[0] = 7  # nobody computes, which is no part of the slice of 1.5 s
    stop.resume()
    clock[0] = 8.5
    assert stop() is None
    clock[0] = 10
    assert stop() == "deadline_near"


def produced(
    work: Work, count: int, *, ends_turn: bool, fails: bool = False
) -> tuple[AsyncIterator[int], list[int]]:
    """Progress by its number, and what has been computed of it so far."""
    computed = list[int]()

    def start() -> Iterator[Event]:
        for number in range(count):
            computed.append(number)
            yield Progress(number, count, 0.0)
        if fails:
            raise ModelError("no more")

    stop = Stop(10, threading.Event())
    return work.events(start, stop, _number, ends_turn=lambda _: ends_turn), computed


async def _take(events: AsyncIterator[int], found: list[int]) -> None:
    async for number in events:
        found.append(number)


def _number(event: Event) -> int:
    assert isinstance(event, Progress)
    return event.done


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work(workers=2, max_unary=4, max_streams=4, heartbeat=5)
    yield made
    made.close()


@pytest.mark.parametrize("ends_turn", [True, False])
async def test_events_come_in_order_and_an_error_after_them(work: Work, ends_turn: bool) -> None:
    events, _ = produced(work, 200, ends_turn=ends_turn, fails=True)
    found = list[int]()
    with pytest.raises(ModelError, match="no more"):
        await _take(events, found)
    assert found == list(range(200))


async def test_nothing_is_computed_before_the_end_of_a_turn_is_taken(work: Work) -> None:
    events, computed = produced(work, 5, ends_turn=True)
    async for number in events:
        await asyncio.sleep(0.02)
        assert computed == list(range(number + 1))


async def test_a_turn_ends_after_a_while_so_that_others_have_the_thread(work: Work) -> None:
    events, computed = produced(work, 1_000_000, ends_turn=False)
    await anext(events)
    for _ in range(100):
        before = len(computed)
        await asyncio.sleep(0.1)
        if len(computed) == before:
            break
    assert 1 < len(computed) == before < 1_000_000
    await events.aclose()  # type: ignore[attr-defined]


async def test_what_prepare_leaves_out_is_not_told(work: Work) -> None:
    def start() -> Iterator[Event]:
        yield from (Progress(number, 10, 0.0) for number in range(10))

    def odd(event: Event) -> int | None:
        return number if (number := _number(event)) % 2 else None

    assert [n async for n in work.events(start, Stop(10, threading.Event()), odd)] == [1, 3, 5, 7, 9]


async def test_a_function_that_takes_too_long_is_given_up(work: Work) -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
        await work.run(lambda: time.sleep(0.5), 0.05)
    assert await work.run(lambda: 7, 5) == 7

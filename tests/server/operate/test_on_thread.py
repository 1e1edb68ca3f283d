"""What lives on a loop of its own thread is entered, used and left; whatever fails is raised where it is waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from onnx_attribution.server.operate.on_thread import on_thread


def test_it_is_entered_and_left_on_one_loop_of_the_named_thread() -> None:
    told: list[object] = []

    @asynccontextmanager
    async def place() -> AsyncIterator[str]:
        told.append((threading.current_thread().name, asyncio.get_running_loop()))
        yield "value"
        told.append((threading.current_thread().name, asyncio.get_running_loop()))

    with on_thread(place, "ours") as value:
        assert value == "value"
        assert len(told) == 1
    assert len(told) == 2
    assert told[0] == told[1]
    assert all(one.name != "ours" for one in threading.enumerate())


@pytest.mark.parametrize("when", ["before", "behind"])
def test_what_fails_on_the_thread_is_raised_to_its_user(when: str) -> None:
    @asynccontextmanager
    async def place() -> AsyncIterator[None]:
        if when == "before":
            raise ValueError("before")
        yield
        raise ValueError("behind")

    entered = False
    with pytest.raises(ValueError, match=when), on_thread(place, "ours"):
        entered = True
    assert entered == (when == "behind")


def test_a_failure_of_the_user_is_the_one_that_is_raised() -> None:
    @asynccontextmanager
    async def place() -> AsyncIterator[None]:
        yield
        raise ValueError("behind")

    with pytest.raises(KeyError), on_thread(place, "ours"):
        raise KeyError("own")

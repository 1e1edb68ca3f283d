"""Both clients of a real server on a loopback socket, around an engine that computes next to nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.server import app
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine

SETTINGS = Settings(port=0, grace_seconds=2)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[Client]:
    with app.background(engine, SETTINGS) as (address, _), Client(address) as client:
        yield client


@pytest.fixture
async def async_client(engine: FakeEngine) -> AsyncIterator[AsyncClient]:
    server = app.build(engine, SETTINGS)
    port = await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        yield client
    await server.drain()

"""grpc.health.v1 with the call that grpcio leaves out, and watchers that do not end each other."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["Health"]

Status = health_pb2.HealthCheckResponse
MOST_LISTED = 1000


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it ships no types
    """The state of the server "", of its services and of `models/NAME`."""

    def __init__(self) -> None:
        self._states: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._is_ending = False

    async def set(self, states: dict[str, int]) -> None:
        """The states of all that there is; what is not named is no more. Ignored once the end has begun."""
        if not self._is_ending and states != self._states:
            await self._put(dict(states))

    async def enter_graceful_shutdown(self) -> None:
        """Nothing serves any more, for good."""
        if not self._is_ending:
            self._is_ending = True
            await self._put(dict.fromkeys(self._states, Status.NOT_SERVING))

    async def _put(self, states: dict[str, int]) -> None:
        async with self._changed:
            self._states = states
            self._changed.notify_all()

    async def Check(self, request: Any, context: Any) -> Any:
        """The state of one. NOT_FOUND where there is no such."""
        if (state := self._states.get(request.service)) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return Status(status=state)

    async def Watch(self, request: Any, context: Any) -> Any:
        """The state of one, again at each change."""
        last = None
        while True:
            state = self._states.get(request.service, Status.SERVICE_UNKNOWN)
            if state != last:
                yield Status(status=state)
                last = state
                continue  # it may have changed meanwhile
            async with self._changed:
                if self._states.get(request.service, Status.SERVICE_UNKNOWN) == last:
                    await self._changed.wait()

    async def List(self, request: bytes, context: Any) -> bytes:
        """The states of all, as HealthListResponse."""
        if len(self._states) > MOST_LISTED:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "there are too many to list")
        entries = (
            _part(1, name.encode()) + _part(2, Status(status=state).SerializeToString())
            for name, state in self._states.items()
        )
        return b"".join(_part(1, entry) for entry in entries)

    def add_to(self, server: Any) -> None:
        """Has the server answer; `List` in its own encoding, since many versions of the package do not know it."""
        handler = grpc.unary_unary_rpc_method_handler(self.List)
        listing = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"List": handler})
        server.add_generic_rpc_handlers((listing,))  # the first one of a name holds
        health_pb2_grpc.add_HealthServicer_to_server(self, server)


def _part(number: int, data: bytes) -> bytes:
    """A field of bytes, text or a message in protobuf's encoding."""
    length, size = len(data), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((number << 3 | 2, *size, length)) + data

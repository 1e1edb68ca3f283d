"""A server of grpc.aio that sends back what it gets, and does nothing else: `... soaking.echo PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

METHOD = "/bare.Echo/Echo"
OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def main(port: int) -> None:
    server = grpc.aio.server(options=OPTIONS)
    service, _, name = METHOD.removeprefix("/").partition("/")
    handlers = {name: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

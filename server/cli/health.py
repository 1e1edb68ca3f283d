"""`health`: whether a server serves. What a container's health check runs."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.status import FAILED, say

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}
"""Addresses that a server listens on and that nobody can call, and what this machine calls instead."""


def health(
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The server; default: where `serve` would listen."),
    ] = None,
    model: options.Model = None,
    seconds: Annotated[float, typer.Option(min=0.001, metavar="NUMBER", help="How long to wait.")] = 3.0,
    json: options.Json = False,
) -> None:
    """Asks a server whether it serves (grpc.health.v1): exit status 0 if it does, 1 if not."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    address = server or _own()
    service = f"models/{model}" if model else ""
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            asked = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=seconds, wait_for_ready=True)
            state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        except grpc.RpcError as error:
            known = {grpc.StatusCode.NOT_FOUND: "SERVICE_UNKNOWN"}
            state = known.get(error.code(), "UNREACHABLE")
    if json:
        output.print_json({"address": address, "service": service, "state": state})
    elif state == "SERVING":
        print(state)
    if state != "SERVING":
        say(f"{service or 'the server'} at {address}: {state}")
        raise typer.Exit(FAILED)


def _own() -> str:
    """The address that the settings name, as this machine calls it."""
    from onnx_attribution.server.settings import Settings

    settings = Settings(allow_insecure=True)  # whether that is allowed is for `serve` to say
    return settings.model_copy(update={"host": EVERYWHERE.get(settings.host, settings.host)}).address

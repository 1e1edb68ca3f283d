"""`health`: whether a server serves. What a container's health check runs."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.login import Login
from onnx_attribution.server.cli.status import FAILED, say

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}
"""Addresses that a server listens on and that nobody can call, and what this machine calls instead."""


def health(
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The server; default: where `serve` would listen."),
    ] = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    model: options.Model = None,
    seconds: Annotated[float, typer.Option(min=0.001, metavar="NUMBER", help="How long to wait.")] = 3.0,
    json: options.Json = False,
) -> None:
    """Asks a server whether it serves (grpc.health.v1): exit status 0 if it does, 1 if not."""
    if server is None and not model and (url := _readiness()):
        _say(url, "", _over_http(url, seconds), json)
        return
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    address = server or _own()
    service = f"models/{model}" if model else ""
    link = Login(ca, certificate, key).link(address)
    with link.channel(grpc, (("grpc.enable_http_proxy", 0),)) as channel:
        try:
            asked = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=seconds, wait_for_ready=True)
            state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        except grpc.RpcError as error:
            known = {grpc.StatusCode.NOT_FOUND: "SERVICE_UNKNOWN"}
            state = known.get(error.code(), "UNREACHABLE")
    _say(address, service, state, json)


def _say(address: str, service: str, state: str, json: bool) -> None:
    if json:
        output.print_json({"address": address, "service": service, "state": state})
    elif state == "SERVING":
        print(state)
    if state != "SERVING":
        say(f"{service or 'the server'} at {address}: {state}")
        raise typer.Exit(FAILED)


def _readiness() -> str | None:
    """Where a server that encrypts says whether it serves: over HTTP, which needs no certificate."""
    from onnx_attribution.server.settings import Settings

    settings = Settings(allow_insecure=True)
    if settings.certificate is None or not settings.http:
        return None
    host, port = settings.http_address
    called = EVERYWHERE.get(host, host)
    return f"http://{f'[{called}]' if ':' in called else called}:{port}/readyz"


def _over_http(url: str, seconds: float) -> str:
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=seconds):
            return "SERVING"
    except HTTPError:
        return "NOT_SERVING"
    except OSError:
        return "UNREACHABLE"


def _own() -> str:
    """The address that the settings name, as this machine calls it."""
    from onnx_attribution.server.settings import Settings

    settings = Settings(allow_insecure=True)  # whether that is allowed is for `serve` to say
    return settings.model_copy(update={"host": EVERYWHERE.get(settings.host, settings.host)}).address

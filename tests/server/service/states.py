"""Servers in a state of their own: full, busy, ending, failing, guarded, or changing what they serve."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.service.repository import Repository
from onnx_attribution.server.service.tokens import add_token
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine
from tests.server.stubs import Stubs, ask, serving


def opening() -> pb.AuditRequest:
    request = ask()
    request.ClearField("inputs")
    return pb.AuditRequest(open=pb.AuditOpen(request=request))


@contextmanager
def held(kind: str, **settings: Any) -> Iterator[Stubs]:
    """A server with as many calls of a kind as it takes: unary, stream, audit; or busy with one."""
    chosen = Settings(port=0, grace_seconds=0.2, **settings)
    with app.background(FakeEngine(), chosen) as (address, server):
        stubs, gate = Stubs(address), threading.Event()

        def sent() -> Iterator[pb.AuditRequest]:
            yield opening()
            gate.wait(20)

        calls = {
            "unary": lambda: stubs.attributions.Attribute.future(ask("stuck"), timeout=20),
            "stream": lambda: stubs.attributions.StreamAttribute(ask("slow"), timeout=20),
            "audit": lambda: stubs.attributions.Audit(sent(), timeout=20),
            "busy": lambda: stubs.attributions.StreamAttribute(ask("stuck"), timeout=20),
        }
        running = calls[kind]()
        with stubs.channel:
            for _ in range(3 if kind == "busy" else 0):
                next(running)
            for _ in range(500):
                if server.work.running:
                    break
                time.sleep(0.01)
            yield stubs
            gate.set()
            running.cancel()


@contextmanager
def draining() -> Iterator[Stubs]:
    with app.background(FakeEngine(), Settings(port=0)) as (address, server):
        stubs = Stubs(address)
        with stubs.channel:
            server.work.draining.set()
            yield stubs


def failing(error: Exception) -> Callable[[], AbstractContextManager[Stubs]]:
    return partial(serving, FakeEngine({"linear": error}))


@contextmanager
def guarded(role: str = "", given: str = "") -> Iterator[Stubs]:
    """A server with tokens, whose calls carry that of a role, or another one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens"
        token = add_token(file, "somebody", role or "admin")
        with app.background(FakeEngine(), Settings(port=0, token_file=file)) as (address, _):
            stubs = Stubs(address)
            sent = token if role else given
            metadata = (("authorization", f"Bearer {sent}"),) if sent else ()
            for stub in (stubs.attributions, stubs.models):
                for name, call in list(vars(stub).items()):
                    setattr(stub, name, partial(call, metadata=metadata))
            with stubs.channel:
                yield stubs


@contextmanager
def changing() -> Iterator[Stubs]:
    """A server that is loading another model, for as long as it is asked."""
    with Engine(provider="cpu", threads=1) as engine:
        repository = Repository(engine)
        with (
            repository._changing,
            app.background(engine, Settings(port=0), repository) as (address, _),
        ):
            stubs = Stubs(address)
            with stubs.channel:
                yield stubs

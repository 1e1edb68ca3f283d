"""What the HTTP port of a server says."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from onnx_attribution.server.app import Server


def get(server: Server, path: str) -> tuple[int, str]:
    """The status and the body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ready(server: Server) -> tuple[int, Any]:
    """The status and the object of /readyz."""
    status, body = get(server, "/readyz")
    return status, json.loads(body)


def until(fact: Callable[[], object], seconds: float = 5) -> None:
    """Waits until it is so. Raises: AssertionError, if it does not come."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)

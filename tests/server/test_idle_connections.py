"""A connection without calls stays: a client that pings it as ours do, once a minute, is not sent away."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

from onnx_attribution.client.channel import CHANNEL_OPTIONS
from onnx_attribution.server.app import _options
from onnx_attribution.server.settings import Settings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
BETWEEN = "grpc.http2.min_ping_interval_without_data_ms"


def frame(kind: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 0]) + payload


def kinds_of(sent: bytes) -> list[int]:
    """The frames that a server has sent."""
    found = []
    while len(sent) >= 9:
        found.append(sent[3])
        sent = sent[9 + int.from_bytes(sent[:3], "big") :]
    return found


def is_kept(options: list[tuple[str, int]], seconds: float) -> bool:
    """Whether a server keeps a connection without calls on which six pings come."""
    server = grpc.server(ThreadPoolExecutor(1), options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
            link.sendall(PREFACE + frame(SETTINGS))
            for _ in range(6):
                link.sendall(frame(PING, b"12345678"))
                time.sleep(seconds)
            return GOAWAY not in kinds_of(link.recv(1 << 16))
    except ConnectionError:
        return False
    finally:
        server.stop(None)


def test_pings_are_taken_that_come_no_more_often_than_the_setting_says() -> None:
    options = [(name, 100 if name == BETWEEN else value) for name, value in _options(Settings())]
    assert is_kept(options, 0.2)


def test_a_client_that_pings_without_end_is_sent_away() -> None:
    assert not is_kept(_options(Settings()), 0.05)


def test_our_clients_ping_no_more_often_than_servers_allow() -> None:
    assert int(dict(CHANNEL_OPTIONS)["grpc.keepalive_time_ms"]) > dict(_options(Settings()))[BETWEEN]

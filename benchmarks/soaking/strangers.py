"""Scenario: callers who may not call, or not this: of another authority, expired, without a token, of a small role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.soaking.world import World
from benchmarks.table import Figure, most
from onnx_attribution import errors
from onnx_attribution.client import Client, Tls
from onnx_attribution.server.service.tokens import add_token
from tests.certificates import Authority

ONES = np.ones((1, 2), np.float32)
ROLES = ("read", "attribute", "admin")


def strangers(world: World) -> Iterator[Figure]:
    """Each is refused as it should be, and who may call is answered after it."""
    folder = world.folder / "certificates"
    folder.mkdir(exist_ok=True)
    ours, other = Authority(folder), Authority(folder, "other")
    server_pair, alice, late = ours.pair("server"), ours.pair("alice"), ours.pair("late", days=-1)
    mallory = other.pair("mallory")
    file = folder / "tokens"
    file.unlink(missing_ok=True)
    tokens = {role: add_token(file, f"{role}-er", role) for role in ROLES}
    good = Tls(ours.roots, *alice)

    def by(tls: Tls | bool, token: str | None = tokens["attribute"]) -> Client:
        return Client(server.address, tls=tls, token=token, allow_insecure=True)

    def probe(client: Client) -> None:
        client.health(timeout=5)  # not tried again

    def predict(client: Client) -> None:
        client.predict("sine", {"x": ONES}, timeout=10)

    def unload(client: Client) -> None:
        client.unload("sine", timeout=10)

    wrong: dict[str, tuple[Callable[[], Client], Callable[[Client], None], type[Exception]]] = {
        "who trusts another authority": (lambda: by(Tls(other.roots, *alice)), probe, errors.NotReady),
        "without a certificate": (lambda: by(Tls(ours.roots)), probe, errors.NotReady),
        "with an expired certificate": (lambda: by(Tls(ours.roots, *late)), probe, errors.NotReady),
        "with another authority's": (lambda: by(Tls(ours.roots, *mallory)), probe, errors.NotReady),
        "without encryption": (lambda: by(False), probe, errors.NotReady),
        "without a token": (lambda: by(good, None), predict, errors.Unauthenticated),
        "with a wrong token": (lambda: by(good, "wrong"), predict, errors.Unauthenticated),
        "a reader who computes": (lambda: by(good, tokens["read"]), predict, errors.PermissionDenied),
        "who unloads and may not": (lambda: by(good), unload, errors.PermissionDenied),
    }
    settings: dict[str, Any] = {
        "certificate": server_pair.certificate, "key": server_pair.key, "client_ca": ours.roots,
        "token_file": file,
    }  # fmt: skip
    unlike, unanswered = Counter[str](), 0
    with world.server(link={"tls": good, "token": tokens["attribute"]}, **settings) as server:

        def one_of_each() -> None:
            nonlocal unanswered
            for who, (client_of, ask, expected) in wrong.items():
                with client_of() as client:
                    try:
                        ask(client)
                        unlike[f"{who}: let in"] += 1
                    except expected:
                        pass
                    except errors.AttributionError as error:
                        unlike[f"{who}: {type(error).__name__}"] += 1
                try:
                    with by(good) as client:
                        predict(client)
                except errors.AttributionError:
                    unanswered += 1

        world.settle(server, one_of_each)
        before, rounds = server.mebibytes, world.count(12, 2)
        for _ in range(rounds):
            one_of_each()
        how = f"{rounds * len(wrong)} after it stood still at {before:.0f} MiB"
        yield Figure(
            "wrong callers",
            "let in, or refused as another",
            sum(unlike.values()),
            most(0),
            str(dict(unlike) or ""),
        )
        yield Figure("wrong callers", "right callers who were refused", unanswered, most(0))
        yield Figure("wrong callers", "MiB that stay", server.mebibytes - before, most(1), how)

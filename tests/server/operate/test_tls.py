"""Encrypted connections: who is let in, what is said to those who are not, and certificates that are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import structlog
from pydantic import ValidationError

from onnx_attribution.client import AsyncClient, Client, Tls
from onnx_attribution.errors import (
    AttributionError,
    InvalidArgument,
    NotReady,
    PermissionDenied,
    Unauthenticated,
)
from onnx_attribution.server import app
from onnx_attribution.server.service import access
from onnx_attribution.server.service.tokens import add_token
from onnx_attribution.server.settings import Settings
from tests.certificates import Authority, Pair
from tests.server.fake_engine import FakeEngine, X


class Files(NamedTuple):
    """An authority and what it has signed, and another authority."""

    folder: Path
    ours: Authority
    other: Authority
    server: Pair
    alice: Pair


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    ours, other = Authority(folder), Authority(folder, "other")
    return Files(folder, ours, other, ours.pair("server"), ours.pair("alice"))


@pytest.fixture(scope="module")
def one_way(files: Files) -> Iterator[str]:
    with encrypted(files.server) as address:
        yield address


@pytest.fixture(scope="module")
def mutual(files: Files) -> Iterator[str]:
    with encrypted(files.server, client_ca=files.ours.roots) as address:
        yield address


class encrypted:  # noqa: N801  # used as a function
    """A server with a certificate, and its address."""

    def __init__(self, pair: Pair, engine: FakeEngine | None = None, **settings: Any) -> None:
        made = Settings(port=0, certificate=pair.certificate, key=pair.key, **settings)
        self._server = app.background(engine or FakeEngine(), made)

    def __enter__(self) -> str:
        return self._server.__enter__()[0]

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)


def refusal(address: str, **how: Any) -> AttributionError:
    """Why a client cannot connect; a probe is not tried again."""
    with Client(address, **how) as client, pytest.raises(NotReady) as caught:
        client.health(timeout=5)
    return caught.value


async def test_both_clients_are_served_over_an_encrypted_connection(one_way: str, files: Files) -> None:
    tls = Tls(files.ours.roots)
    with Client(one_way, tls=tls) as client:
        assert client.attribute("linear", X).layers["x"].values.shape == (2, 3)
        assert client.health()
    async with AsyncClient(one_way, tls=tls) as aio:
        assert (await aio.attribute("linear", X)).layers["x"].values.shape == (2, 3)
        assert await aio.health()


def test_the_certificate_of_the_server_is_checked_and_the_fault_named(one_way: str, files: Files) -> None:
    assert "is of none of the roots" in refusal(one_way, tls=Tls(files.other.roots)).message
    assert "is of none of the roots" in refusal(one_way, tls=True).message
    assert "for another name" in refusal(one_way, tls=Tls(files.ours.roots, name="elsewhere")).message
    assert "wants encryption" in refusal(one_way).message
    with encrypted(files.ours.pair("late", days=-1)) as address:
        assert "has to be renewed" in refusal(address, tls=Tls(files.ours.roots)).message
    with encrypted(files.ours.pair("far", host="10.0.0.1")) as address:
        assert "for another name" in refusal(address, tls=Tls(files.ours.roots)).message
        with Client(address, tls=Tls(files.ours.roots, name="far")) as client:
            assert client.health()


def test_encryption_that_the_server_does_not_speak_is_said(files: Files) -> None:
    with app.background(FakeEngine(), Settings(port=0)) as (address, _):
        assert "does not encrypt" in refusal(address, tls=Tls(files.ours.roots)).message


def test_client_certificate_is_needed_of_the_authority_and_in_date(mutual: str, files: Files) -> None:
    roots = files.ours.roots
    for wrong in (
        Tls(roots),
        Tls(roots, *files.other.pair("mallory")),
        Tls(roots, *files.ours.pair("expired", days=-1)),
        False,
    ):
        assert "a client certificate of its authority" in refusal(mutual, tls=wrong).message
    with Client(mutual, tls=Tls(roots, *files.alice)) as client:
        assert client.health()


def test_name_in_the_certificate_is_the_callers(files: Files) -> None:
    seen: list[access.Caller | None] = []

    class Asking(FakeEngine):
        def methods(self) -> Any:
            seen.append(access.current_caller())
            return super().methods()

    tls = Tls(files.ours.roots, *files.alice)
    with (
        encrypted(files.server, Asking(), client_ca=files.ours.roots, default_role="attribute") as address,
        Client(address, tls=tls) as client,
    ):
        client.methods()
    assert seen == [access.Caller("alice", access.Role.ATTRIBUTE)]


async def test_token_goes_with_every_call_of_both_clients_and_comes_before_the_certificate(
    files: Files,
) -> None:
    file, roots = files.folder / "tokens", files.ours.roots
    token = add_token(file, "someone", "attribute")
    with open(file, "a") as opened:
        opened.write("alice read certificate\n")
    named = Tls(roots, *files.alice)
    unlisted = Tls(roots, *files.ours.pair("bob"))
    with encrypted(files.server, client_ca=roots, token_file=file) as address:
        with Client(address, tls=named, token=token) as client:
            assert client.predict("linear", {"x": X})["y"].shape == (2, 2)
            assert client.attribute("linear", X).layers["x"].values.shape == (2, 3)
            assert client.models()
            assert client.methods()
            assert client.layers("linear", "layer1999")
            assert len(list(client.audit("linear", [X, X]))) == 2
        async with AsyncClient(address, tls=named, token=token) as aio:
            assert (await aio.predict("linear", {"x": X}))["y"].shape == (2, 2)
            assert (await aio.attribute("linear", X)).layers["x"].values.shape == (2, 3)
            assert await aio.models()
            assert len([answer async for answer in aio.audit("linear", [X, X])]) == 2
        with Client(address, tls=named) as client:
            assert client.models()
            with pytest.raises(PermissionDenied):
                client.predict("linear", {"x": X})
        with Client(address, tls=unlisted) as client:
            assert client.health()
            with pytest.raises(Unauthenticated) as missing:
                client.models()
        async with AsyncClient(address, tls=named, token="wrong") as aio:
            with pytest.raises(Unauthenticated) as invalid:
                await aio.attribute("linear", X)
    assert (missing.value.reason, invalid.value.reason) == ("CREDENTIALS_MISSING", "CREDENTIALS_INVALID")


def test_token_goes_to_other_machines_encrypted_only() -> None:
    for address in (
        "10.0.0.1:8081",
        "example.org:8081",
        "dns:///example.org:8081",
        "localhost.example.org:1",
    ):
        with pytest.raises(InvalidArgument, match="unencrypted, where others can read it"):
            Client(address, token="t")
        Client(address, token="t", tls=True).close()
        Client(address, token="t", allow_insecure=True).close()
        Client(address, token="t", credentials=grpc.ssl_channel_credentials()).close()
    for address in ("127.0.0.1:8081", "localhost:8081", "[::1]:8081", "unix:/run/x", "dns:///localhost:8081"):
        Client(address, token="t").close()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"token": "two words"}, "a token is text without spaces"),
        ({"token": "line\nbreak"}, "a token is text without spaces"),
        ({"token": ""}, "a token is text without spaces"),
        ({"tls": Tls("nowhere.pem")}, "cannot read 'nowhere.pem'"),
        ({"tls": Tls(certificate="c.pem")}, "given together"),
        ({"tls": True, "credentials": grpc.ssl_channel_credentials()}, "not both"),
    ],
)
def test_what_makes_no_connection_is_refused_at_once(how: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as caught:
        Client(**how)
    assert "words" not in str(caught.value)
    assert "break" not in str(caught.value)


# --- the server's files


def test_new_connections_see_a_new_certificate_and_old_ones_go_on(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path), Authority(tmp_path, "other")
    pair = ours.pair("server")
    with encrypted(pair) as address, Client(address, tls=Tls(ours.roots)) as old:
        assert old.health()
        other.pair("server")  # in the same files
        with Client(address, tls=Tls(other.roots)) as new:
            assert new.health()
        assert "is of none of the roots" in refusal(address, tls=Tls(ours.roots)).message
        assert old.health()


@pytest.mark.parametrize("broken", ["cut", "another key", "gone"])
def test_files_that_do_not_fit_leave_the_certificate_as_it_was(tmp_path: Path, broken: str) -> None:
    ours = Authority(tmp_path)
    pair, another = ours.pair("server"), ours.pair("another")
    kept = pair.certificate.read_bytes()
    with encrypted(pair) as address, structlog.testing.capture_logs() as logs:
        if broken == "cut":
            pair.certificate.write_bytes(kept[: len(kept) // 2])
        elif broken == "another key":
            pair.key.write_bytes(another.key.read_bytes())
        else:
            pair.certificate.unlink()
        for _ in range(2):
            with Client(address, tls=Tls(ours.roots)) as client:
                assert client.health()
    assert [entry["event"] for entry in logs].count("not replaced") == 1
    assert "PRIVATE KEY" not in str(logs)


def test_settings_that_are_half_of_something_are_refused(files: Files) -> None:
    halves: list[dict[str, Any]] = [{"certificate": files.server.certificate}, {"key": files.server.key}]
    for given in halves:
        with pytest.raises(ValidationError, match="certificate and key are set together"):
            Settings(**given)
    with pytest.raises(ValidationError, match="client_ca is for encrypted"):
        Settings(client_ca=files.ours.roots)
    both: dict[str, Any] = {"certificate": files.server.certificate, "key": files.server.key}
    assert Settings(host="0.0.0.0", **both).address == "0.0.0.0:8081"
    with pytest.raises(ValidationError, match="calls and their tokens are not encrypted"):
        Settings(host="0.0.0.0", token_file=files.folder / "tokens")
    assert Settings(host="0.0.0.0", token_file=files.folder / "tokens", allow_insecure=True).allow_insecure


def test_files_that_are_no_certificate_end_the_start(files: Files) -> None:
    wrong = Pair(files.server.certificate, files.alice.key)
    absent = Pair(files.folder / "nowhere.crt", files.server.key)
    for pair in (wrong, absent):
        with pytest.raises(InvalidArgument, match="cannot be used as certificate"), encrypted(pair):
            pass
    with (
        pytest.raises(InvalidArgument, match="cannot be used"),
        encrypted(files.server, client_ca=files.server.key),
    ):
        pass


def test_key_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    pair = Authority(tmp_path).pair("server")
    pair.key.chmod(0o644)
    with structlog.testing.capture_logs() as logs, encrypted(pair):
        pass
    assert {"event": "other users may read the key", "file": "server.key", "log_level": "warning"} in logs

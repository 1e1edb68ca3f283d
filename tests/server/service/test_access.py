"""Who may make which call: asked before anything else, and answered without a word too many."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from onnx_attribution.client.errors import translated
from onnx_attribution.errors import InvalidArgument, Overloaded, PermissionDenied, Unauthenticated
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server import app
from onnx_attribution.server.service import access
from onnx_attribution.server.service.access import Access, Caller, Role
from onnx_attribution.server.service.tokens import add_token, read_tokens
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine
from tests.server.stubs import Stubs, ask

SERVICES = list(pb.DESCRIPTOR.services_by_name.values())
METHODS = {
    f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods
}


class Tokens(dict[str, str]):
    """A token file with one token for each role, by role."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens"
        super().__init__({role: add_token(self.file, f"{role}-er", role) for role in Role})


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def guarded(tokens: Tokens) -> Iterator[Stubs]:
    with app.background(FakeEngine(), Settings(port=0, token_file=tokens.file)) as (address, _):
        stubs = Stubs(address)
        with stubs.channel:
            yield stubs


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def call(channel: grpc.Channel, path: str, data: bytes = b"", **options: Any) -> Any:
    """One call by its path, with the first answer of a stream."""
    method = METHODS[path]
    kind = (
        ("stream" if method.client_streaming else "unary")
        + "_"
        + ("stream" if method.server_streaming else "unary")
    )
    made = getattr(channel, kind)(path)(
        iter([data]) if method.client_streaming else data, timeout=5, **options
    )
    return next(made, b"") if method.server_streaming else made


def test_every_call_of_the_protocol_has_a_role_that_was_decided() -> None:
    assert set(METHODS) <= set(access.ROLES)


def test_call_that_nobody_knows_needs_an_administrator() -> None:
    assert access.role_of("/onnx_attribution.v1.ModelService/DeleteAll") is Role.ADMIN
    assert access.role_of("/elsewhere.Service/Call") is Role.ADMIN
    assert access.role_of("/grpc.health.v1.Health/Check") is None
    assert access.role_of("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") is None


@pytest.mark.parametrize("path", METHODS)
def test_each_role_may_make_its_calls_and_no_others(guarded: Stubs, tokens: Tokens, path: str) -> None:
    needed = access.ROLES[path]
    for role, token in tokens.items():
        code = grpc.StatusCode.OK
        try:
            call(guarded.channel, path, b"\xff\xff\xff", metadata=bearer(token))  # no message at all
        except grpc.RpcError as error:
            code = error.code()
        refused = code == grpc.StatusCode.PERMISSION_DENIED
        assert refused != Role(role).covers(needed), (role, code)


@pytest.mark.parametrize("path", METHODS)
@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "CREDENTIALS_MISSING"),
        (bearer("nonsense"), "CREDENTIALS_INVALID"),
        ((("authorization", "Basic bmFtZTpwYXNz"),), "CREDENTIALS_INVALID"),
        ((("authorization", ""),), "CREDENTIALS_INVALID"),
    ],
    ids=["none", "unknown", "basic", "empty"],
)
def test_who_is_not_known_is_told_nothing(guarded: Stubs, path: str, metadata: Any, reason: str) -> None:
    for data in (b"", b"\xff\xff\xff"):
        with pytest.raises(grpc.RpcError) as caught:
            call(guarded.channel, path, data, metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        [detail] = details_of(caught.value)
        info = error_details_pb2.ErrorInfo()
        assert detail.Unpack(info)
        assert (info.reason, dict(info.metadata)) == (reason, {})
        with pytest.raises(Unauthenticated), translated():
            raise caught.value


def test_second_token_is_no_second_try(guarded: Stubs, tokens: Tokens) -> None:
    both = (*bearer(tokens["admin"]), *bearer("nonsense"))
    with pytest.raises(Unauthenticated), translated():
        guarded.models.ListModels(pb.ListModelsRequest(), metadata=both)


def test_what_is_not_there_and_what_is_are_refused_alike(guarded: Stubs, tokens: Tokens) -> None:
    told = set()
    for model in ("linear", "nowhere"):
        with pytest.raises(PermissionDenied) as caught, translated():
            guarded.attributions.Attribute(ask(model), metadata=bearer(tokens["read"]))
        told.add(caught.value.message)
    assert told == {"the call needs the role attribute, and the caller's is read"}


def test_probes_and_tools_need_no_token(guarded: Stubs) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    answer = health_pb2_grpc.HealthStub(guarded.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert set(app.SERVICES) <= set(ProtoReflectionDescriptorDatabase(guarded.channel).get_services())


def test_handlers_know_who_calls(tokens: Tokens) -> None:
    seen: list[Caller | None] = []

    class Asking(FakeEngine):
        def methods(self) -> Any:
            seen.append(access.current_caller())
            return super().methods()

    for settings, metadata, expected in (
        (Settings(port=0, token_file=tokens.file), bearer(tokens["read"]), Caller("read-er", Role.READ)),
        (Settings(port=0), (), Caller("ipv4:127.0.0.1", Role.ADMIN)),
        (Settings(port=0, default_role="read"), (), Caller("ipv4:127.0.0.1", Role.READ)),
    ):
        with app.background(Asking(), settings) as (address, _):
            stubs = Stubs(address)
            with stubs.channel:
                stubs.attributions.ListMethods(pb.ListMethodsRequest(), metadata=metadata)
        assert seen.pop() == expected
    assert access.current_caller() is None


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:10.1.2.3:4711", "ipv4:10.1.2.3"),
        ("ipv6:%5B::1%5D:4711", "ipv6:[::1]"),
        ("unix:", "unix:"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_caller_without_a_name_is_called_by_address(peer: str, name: str) -> None:
    assert Access(None, Role.READ).caller([], peer).name == name


def test_who_comes_from_other_machines_is_no_administrator_unless_that_is_said() -> None:
    def role(**settings: Any) -> Role:
        return Access.of(Settings(allow_insecure=True, **settings)).caller([], "ipv4:10.0.0.1:1").role

    assert role(host="127.0.0.1") is Role.ADMIN
    assert role(host="0.0.0.0") is Role.ATTRIBUTE
    assert role(host="0.0.0.0", default_role="admin") is Role.ADMIN


# --- the token file


def test_token_file_holds_no_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    token = add_token(file, "alice", "attribute")
    assert file.read_text() == f"alice attribute sha256:{hashlib.sha256(token.encode()).hexdigest()}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(token) >= 40
    assert add_token(file, "bob", "read") != token
    assert read_tokens(file).of_token(token) == Caller("alice", Role.ATTRIBUTE)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("alice attribute my-secret", "line 2 .* 64 hexadecimal digits"),
        ("alice attribute", "NAME ROLE sha256:DIGEST"),
        ("alice emperor sha256:" + "0" * 64, "'emperor' is no role; there are: read, attribute, admin"),
        ("a:b read sha256:" + "0" * 64, "'a:b' is no name"),
        ("alice read sha256:" + "f" * 64, "line 2 .* is there twice"),
    ],
)
def test_line_that_is_no_caller_is_refused_and_what_may_be_a_secret_not_told(
    tmp_path: Path, line: str, why: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"first read sha256:{'f' * 64}\n{line}\n")
    with pytest.raises(InvalidArgument, match=why) as caught:
        Access.of(Settings(token_file=file))
    assert "my-secret" not in str(caught.value)


def test_missing_token_file_lets_nobody_in_by_mistake(tmp_path: Path) -> None:
    with (
        pytest.raises(InvalidArgument, match="token file 'nowhere' cannot be read"),
        app.background(FakeEngine(), Settings(port=0, token_file=tmp_path / "nowhere")),
    ):
        pass


def test_changed_token_file_counts_at_once_and_a_broken_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    first = add_token(file, "first", "admin")
    access = Access.of(Settings(token_file=file))

    def knows(token: str) -> bool:
        try:
            access.caller([f"Bearer {token}"], "ipv4:10.0.0.1:1")
        except Unauthenticated:
            return False
        return True

    assert knows(first)
    second = add_token(file, "second", "read")
    assert knows(first)
    assert knows(second)
    replace(file, "nonsense\n")
    assert knows(first)
    replace(
        file,
        "".join(
            line for line in file.with_suffix(".old").read_text().splitlines(True) if "first" not in line
        ),
    )
    assert not knows(first)
    assert knows(second)
    file.unlink()
    assert knows(second)


def replace(file: Path, text: str) -> None:
    """As a careful administrator does; what was there goes on as `.old`, if it was of use."""
    if "sha256" in file.read_text():
        os.link(file, file.with_suffix(".old"))
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


# --- how many calls at once


def test_caller_has_so_many_calls_at_once_and_others_have_their_own(tokens: Tokens) -> None:
    engine = FakeEngine()
    settings = Settings(port=0, token_file=tokens.file, max_per_caller=2)
    with app.background(engine, settings) as (address, server):
        stubs = Stubs(address)
        with stubs.channel:
            mine, others = bearer(tokens["attribute"]), bearer(tokens["admin"])
            held = [stubs.attributions.StreamAttribute(ask("slow"), metadata=mine) for _ in range(2)]
            for stream in held:
                next(stream)
            attempts: list[Callable[[], Any]] = [
                lambda: stubs.attributions.Attribute(ask(), metadata=mine),
                lambda: next(stubs.attributions.StreamAttribute(ask(), metadata=mine)),
            ]
            for attempt in attempts:
                with pytest.raises(grpc.RpcError) as caught:
                    attempt()
                check_quota(caught.value, "attribute-er", "2 calls of this caller")
            assert stubs.attributions.Attribute(ask(), metadata=others).HasField("summary")
            assert stubs.models.ListModels(
                pb.ListModelsRequest(), metadata=mine
            ).models  # which costs nothing
            for stream in held:
                stream.cancel()
            wait_until(lambda: server.work.running == 0)
            assert stubs.attributions.Attribute(ask(), metadata=mine).HasField("summary")


def check_quota(error: grpc.RpcError, subject: str, words: str) -> None:
    """The status says what is exceeded, by whom, and when to come back."""
    with pytest.raises(Overloaded, match=words) as caught, translated():
        raise error
    assert caught.value.reason == "RATE_LIMITED"
    retry, quota = error_details_pb2.RetryInfo(), error_details_pb2.QuotaFailure()
    for detail in details_of(error):
        assert (
            detail.Unpack(retry) or detail.Unpack(quota) or detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
        )
    assert retry.retry_delay.seconds > 0
    assert [one.subject for one in quota.violations] == [subject]


def test_limit_is_eight_by_default_and_zero_is_none() -> None:
    for settings, most in ((Settings(), 8), (Settings(max_per_caller=0), None)):
        access, caller = Access.of(settings), Caller("x", Role.ADMIN)
        entered = 0
        rooms = [access.room(caller) for _ in range(100)]
        try:
            for room in itertools.islice(rooms, 100):
                room.__enter__()
                entered += 1
        except Overloaded:
            pass
        assert entered == (most or 100)
        for room in rooms[:entered]:
            room.__exit__(None, None, None)
        with access.room(caller):
            pass


def details_of(error: grpc.RpcError) -> list[Any]:
    found = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    return list(status_pb2.Status.FromString(found).details)


def wait_until(done: Callable[[], bool]) -> None:
    import time

    for _ in range(200):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")

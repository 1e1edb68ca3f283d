"""Interventions over the wire: the numbers of the engine, and its refusals by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import numpy as np
import pytest

from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.errors import DeadlineExceeded, InvalidArgument, NotFound
from onnx_attribution.interventions import MEAN, Edit, Intervened, InterventionRequest, Patch, Ranked
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import interventions, tensors
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Target
from tests.definitions.network import drawn
from tests.programs import parsed
from tests.server.stubs import Stubs

NET, X, OTHERS = drawn(3)
INPUTS = {"x": X.astype(np.float32)}
DONORS = {"x": OTHERS[:2].astype(np.float32)}
ENDLESS = parsed(
    """g (float[N,2] x) => (float[N,2] y) {
        whole = ReduceMax<keepdims = 0>(x)
        high = Constant<value = float {7.5}>()
        is_high = Equal(whole, high)
        few = Constant<value = int64 {2}>()
        many = Constant<value = int64 {9223372036854775807}>()
        trip = Where(is_high, many, few)
        on = Constant<value = bool {1}>()
        y = Loop(trip, on, x) <body = b (int64 i, bool c, float[N,2] a) => (bool d, float[N,2] e) {
            d = Identity(c)
            e = Sin(a)
        }>
    }"""
)
"""It never ends where the largest element of x is 7.5."""
RANKS = np.array([[3, 1, 2, 0], [0, 1, 2, 3], [2, 3, 0, 1]])
EDITS: list[Edit | list[Edit]] = [
    Edit("h", 1),
    Edit("h", [(0,), slice(2, 3)], to=1.5),
    Edit("h", np.array([0, 2]), scale=-0.5),
    Edit("h", np.eye(3, 4, dtype=bool), to=np.arange(12.0).reshape(3, 4)),
    Edit("h", (slice(None, None, 2),), to=MEAN),
    [Edit("x", to=Patch([1, 0, 1])), Edit("h", Ranked(RANKS, 1, 3))],
    Edit("h", Ranked(RANKS, 2)),
    Edit("h", to=Patch(1)),
    [],
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("net", NET.model())
        made.add("endless", ENDLESS)
        yield made


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with app.background(engine, Settings(port=0)) as (found, _):
        yield found


def assert_same(one: Intervened, other: Intervened) -> None:
    for name, value in vars(one).items():
        if name not in ("seconds", "target", "outputs", "outputs_before"):
            np.testing.assert_array_equal(value, getattr(other, name), name)
    for name, value in vars(one.target).items():
        np.testing.assert_array_equal(value, getattr(other.target, name), name)
    for name in ("outputs", "outputs_before"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key])


def test_served_numbers_are_those_of_the_engine(engine: Engine, address: str) -> None:
    asked: dict[str, Any] = {"target": Target("z2", [0, 1, 2]), "outputs": ["h", "y"], "donors": DONORS}
    own = engine.intervene("net", INPUTS, EDITS, **asked)
    with Client(address) as client:
        assert_same(client.intervene("net", INPUTS, EDITS, **asked), own)
        assert_same(client.intervene("net", INPUTS["x"], EDITS, **{**asked, "donors": DONORS["x"]}), own)

    async def awaited() -> Intervened:
        async with AsyncClient(address) as client:
            return await client.intervene("net", INPUTS["x"], EDITS, **asked)

    assert_same(asyncio.run(awaited()), own)


def test_ranks_that_edits_share_are_sent_once() -> None:
    edits = [Edit("h", Ranked(RANKS, 0, k)) for k in range(5)]
    request = InterventionRequest("net", INPUTS, edits)
    message = interventions.to_request(request)
    assert len(message.numbers) == 1
    back = interventions.from_request(pb.InterveneRequest.FromString(message.SerializeToString()))
    for (one,), edit in zip(back.interventions, edits, strict=True):
        assert isinstance(one.at, Ranked)
        assert isinstance(edit.at, Ranked)
        assert (one.layer, one.at.start, one.at.stop) == ("h", 0, edit.at.stop)
        np.testing.assert_array_equal(one.at.numbers, RANKS)


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (Edit("nowhere"), NotFound, "nowhere"),
        (Edit("h", 4), InvalidArgument, r"interventions\[0\], layer 'h'.*legal are 0 to 3"),
        (Edit("h", to=np.ones(3)), InvalidArgument, "'h'"),
        (Edit("h", np.ones(4)), InvalidArgument, r"interventions\[0\]"),
        (Edit("h", cast(Any, ["a"])), InvalidArgument, r"interventions\[0\].*layer index"),
        (Edit("h", Ranked(RANKS, 0.5)), InvalidArgument, "start is a whole number"),  # type: ignore[arg-type]
    ],
)
def test_refusals_name_the_intervention(address: str, edit: Edit, kind: type[Exception], words: str) -> None:
    with Client(address) as client, pytest.raises(kind, match=words):
        client.intervene("net", INPUTS, [edit])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"interventions": []}, "there is no intervention"),
        ({"interventions": [pb.Intervention(edits=[pb.Edit(layer="h", ranked=pb.Ranked())])]}, r"numbers\[0\]"),
        (
            {"interventions": [pb.Intervention(edits=[pb.Edit(layer="h", at=[pb.Selector(automatic=True)])])]},
            "selectors of an edit have axes",
        ),
    ],
)  # fmt: skip
def test_messages_of_others_are_checked(address: str, fields: dict[str, Any], words: str) -> None:
    stubs = Stubs(address)
    request = pb.InterveneRequest(model="net", inputs=[tensors.encode("x", INPUTS["x"])], **fields)
    with stubs.channel, pytest.raises(grpc.RpcError, match=words) as caught:
        stubs.attributions.Intervene(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_run_that_an_edit_makes_endless_ends_at_the_deadline(address: str) -> None:
    x = {"x": np.ones((1, 2), np.float32)}
    with Client(address) as client:
        found = client.intervene("endless", x, [Edit("x", 0)], target=0)
        np.testing.assert_array_equal(found.values, 0)
        with pytest.raises(DeadlineExceeded):
            client.intervene("endless", x, [Edit("x", to=7.5)], target=0, timeout=1)
        again = client.intervene("endless", x, [Edit("x", 0)], target=0, timeout=5)
        np.testing.assert_array_equal(again.values, 0)


def test_requests_that_come_together_are_answered_as_alone(engine: Engine, address: str) -> None:
    def ask(number: int) -> Any:
        with Client(address) as client:
            return client.intervene("net", INPUTS, [EDITS[number]]).values

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, [*range(8)] * 3))
    for number in range(8):
        alone = engine.intervene("net", INPUTS, [EDITS[number]]).values
        for found in together[number::8]:
            np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-7)


def test_an_answer_over_the_limit_is_refused(engine: Engine) -> None:
    with (
        app.background(engine, Settings(port=0, max_response_mib=0.0001)) as (found, _),
        Client(found) as client,
        pytest.raises(InvalidArgument, match="fewer samples, interventions or outputs"),
    ):
        client.intervene("net", INPUTS, EDITS)

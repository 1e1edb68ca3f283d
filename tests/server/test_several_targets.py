"""Several targets in one request, from a client, in bare messages and on the command line: as the engine answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution import errors
from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.client.errors import translated
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.proto import requests, tensors
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Attribution, AttributionRequest, Target
from tests.method_names import METHODS, SOURCE_METHODS
from tests.server.cli.commands import explained, run

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def engine(digits_path: Path, digits_fixed_path: Path) -> Iterator[Engine]:
    with Engine(provider="cpu", threads=2) as engine:
        engine.add("digits", digits_path)
        engine.add("fixed", digits_fixed_path)
        yield engine


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with app.background(engine, Settings(port=0, max_samples=8)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def images(digits_data: Digits) -> NDArray[np.float32]:
    return digits_data[0][:2]


@pytest.fixture
def file(images: NDArray[np.float32], tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, images)
    return path


def targets_of(engine: Engine, images: NDArray[np.float32]) -> list[Any]:
    size = engine.predict("digits", {"image": images}, ["dense1"])["dense1"].shape[1]
    return [7, Target(index=[1, 2], minus=0), Target("dense1", index=np.ones(size, np.float32))]


def assert_same(there: Attribution, here: Attribution) -> None:
    assert there.several == here.several
    assert [one.index for one in there.targets] == [one.index for one in here.targets]
    for own, other in zip(there.targets, here.targets, strict=True):
        assert own.tensor == other.tensor
        np.testing.assert_array_equal(own.value, other.value)
        np.testing.assert_array_equal(own.baseline_value, other.baseline_value)
    assert (there.warnings, there.evaluations) == (here.warnings, here.evaluations)
    for name, layer in here.layers.items():
        for field in ("values", "sum", "residual", "error_estimate", "spread", "cut"):
            np.testing.assert_array_equal(getattr(there.layers[name], field), getattr(layer, field))


@pytest.mark.parametrize("model", ["digits", "fixed"])
@pytest.mark.parametrize("method", METHODS)
def test_remote_answer_equals_the_embedded_one(
    engine: Engine, client: Client, images: NDArray[np.float32], model: str, method: str
) -> None:
    layers = ["relu1"] if method in SOURCE_METHODS else ["relu1", "conv2"]
    targets = targets_of(engine, images)
    request = AttributionRequest(model, {"image": images}, method, layers, targets=targets, steps=8)
    engine.attribute(request)  # the reference of DeepLIFT is kept from here on
    there = client.attribute(model, images, method=method, layers=layers, targets=targets, steps=8)
    assert there.layers["relu1"].values.shape[:2] == (3, 2)
    assert_same(there, engine.attribute(request))


def test_a_list_of_one_keeps_its_axis(client: Client, images: NDArray[np.float32]) -> None:
    answer = client.attribute("digits", images, method="gradient", targets=[3])
    assert answer.layers["image"].values.shape == (1, *images.shape)
    assert answer.layers["image"].sum.shape == (1, 2)


async def test_the_other_client_has_them_too(engine: Engine, images: NDArray[np.float32]) -> None:
    server = app.build(engine, Settings(port=0))
    port = await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        answer = await client.attribute("digits", images, method="gradient", targets=[3, 4])
    await server.drain()
    request = AttributionRequest("digits", {"image": images}, "gradient", targets=[3, 4])
    assert_same(answer, engine.attribute(request))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"targets": []}, "the list of targets is empty"),
        ({"targets": ["logits"]}, r"targets\[0\] is a Target or an index"),
        ({"targets": [0], "target": 1}, "not both"),
        ({"targets": [0, 10]}, r"targets\[1\]: the target index 10 is out of range"),
        ({"targets": [0, Target(index=[])]}, "the list of target indices is empty"),
        ({"targets": [0, 1, 2, 3, 4]}, "2 samples, each for 5 targets; at most 8"),
    ],
)
def test_refusals_come_with_their_words(
    client: Client, images: NDArray[np.float32], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        client.attribute("digits", images, method="gradient", **given)


def test_bare_messages_list_one_target_after_the_other(
    engine: Engine, address: str, images: NDArray[np.float32]
) -> None:
    request = AttributionRequest("digits", {"image": images}, "gradient_x_activation", targets=[3, [4, 5]])
    here = engine.attribute(request)
    message = requests.to_request(request)
    assert not message.HasField("target")
    with grpc.insecure_channel(address) as channel:
        stub = rpc.AttributionServiceStub(channel)
        found = stub.Attribute(message)
        both = requests.to_request(request)
        both.target.SetInParent()
        with pytest.raises(errors.InvalidArgument, match="not both"), translated():
            stub.Attribute(both)
        message.validate_only = True
        assert stub.Attribute(message).accepted.planned_evaluations == here.evaluations
    (layer,) = found.summary.layers
    assert not found.summary.HasField("target")
    assert [list(one.indices) for one in found.summary.targets] == [["3", "3"], ["4", "5"]]
    assert list(layer.shape) == [2, *images.shape]
    np.testing.assert_array_equal(layer.sums, here.layers["image"].sum.ravel())
    assert isinstance(found, pb.AttributeResponse)
    np.testing.assert_array_equal(tensors.decode(found.attributions[0]), here.layers["image"].values)


@pytest.mark.parametrize("remote", [False, True], ids=["file", "server"])
def test_each_target_of_the_command_line_is_one_of_its_own(
    engine: Engine,
    address: str,
    digits_path: Path,
    images: NDArray[np.float32],
    file: Path,
    tmp_path: Path,
    remote: bool,
) -> None:
    out = tmp_path / "out.npz"
    place = ["digits", "--server", address] if remote else [str(digits_path)]
    options = ("--method", "gradient-x-activation", "--each-target", "3", "--each-target", "relu1:0,2,2")
    found = explained(*place, "--input", file, *options, "--output", out)
    targets = [Target(index=3), Target("relu1", (0, 2, 2))]
    here = engine.attribute(
        AttributionRequest("digits", {"image": images}, "gradient_x_activation", targets=targets)
    )
    assert "target" not in found
    assert [one["tensor"] for one in found["targets"]] == ["logits", "relu1"]
    assert [one["index"] for one in found["targets"]] == [["3", "3"], ["0,2,2", "0,2,2"]]
    assert found["layers"]["image"]["shape"] == [2, *images.shape]
    np.testing.assert_allclose(found["layers"]["image"]["sum"], here.layers["image"].sum, rtol=1e-6)
    np.testing.assert_array_equal(np.load(out)["image"], here.layers["image"].values)


def test_the_tables_have_a_row_for_each(digits_path: Path, file: Path) -> None:
    options = ("--input", file, "--layer", "relu1", "--steps", "4", "--minus", "0")
    found = run("explain", digits_path, *options, "--each-target", "3", "--each-target", "5")
    assert found.exit_code == 0, found.output
    lines = [line.split() for line in found.stdout.splitlines()]
    names = ("logits[3 - 0]", "logits[5 - 0]")
    assert sum(" ".join(line[1:4]) in names for line in lines) == 4
    assert sum(" ".join(line[:3]) in names and line[3] == "relu1" for line in lines) == 4


def test_target_and_each_target_exclude_each_other(digits_path: Path, file: Path) -> None:
    found = run("explain", digits_path, "--input", file, "--target", "3", "--each-target", "4")
    assert found.exit_code == 2
    assert "give --target or --each-target, not both" in found.stderr


def test_too_many_for_one_request_are_told_how_to_take_fewer(digits_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.zeros((100, 1, 8, 8), np.float32))
    options = [word for k in range(4) for word in ("--each-target", str(k))]
    found = run("explain", digits_path, "--input", tmp_path / "many.npy", "--method", "gradient", *options)
    assert found.exit_code == 2
    assert "--rows 0:64" in found.stderr

"""Both clients against a real server on a loopback socket, around an engine that computes next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution import errors
from onnx_attribution.client import AsyncClient, Client, Target
from onnx_attribution.client.messages import only_input
from onnx_attribution.values import (
    Attribution,
    ModelInfo,
    TensorInfo,
)
from tests.server.fake_engine import FakeEngine, W, X


def check(result: Attribution) -> None:
    layer = result.layers["x"]
    np.testing.assert_array_equal(layer.values, X * W[:, 1])
    np.testing.assert_array_equal(layer.sum, (X * W[:, 1]).sum(1))
    assert layer.values.flags.writeable
    assert layer.values.dtype == np.float32
    assert layer.cut
    assert np.isnan(layer.error_estimate).all()
    assert result.target.index == ("1", "1")
    assert (result.method, result.batch, result.provider) == ("neuron_ig", "dynamic", "cpu")
    assert result.steps == 64
    assert result.warnings == ("fake",)


def test_attribution_arrives_as_the_engine_made_it(client: Client) -> None:
    check(client.attribute("linear", {"x": X}, target=1))


async def test_async_attribution_arrives_as_the_engine_made_it(async_client: AsyncClient) -> None:
    check(await async_client.attribute("linear", {"x": X}, target=1))


def test_array_without_a_name_goes_to_the_only_input(client: Client) -> None:
    check(client.attribute("linear", X, target=Target(index=1)))
    np.testing.assert_array_equal(client.predict("linear", X)["y"], X @ W)


async def test_async_array_without_a_name_goes_to_the_only_input(async_client: AsyncClient) -> None:
    check(await async_client.attribute("linear", X, target=1))
    np.testing.assert_array_equal((await async_client.predict("linear", X))["y"], X @ W)


def test_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(errors.NotFound, match="no model 'nothing'; there is linear") as caught:
        client.model("nothing")
    assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert caught.value.metadata == {"model": "nothing"}


async def test_async_unknown_model_is_not_found(async_client: AsyncClient) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await async_client.attribute("nothing", {"x": X})
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_every_wrong_argument_is_named_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        client.attribute("linear", {"x": X * 1j}, steps=0, target="seven")
    assert set(caught.value.violations) == {"steps", "inputs.x", "target"}


def test_array_without_a_name_needs_a_model_with_one_input() -> None:
    two = tuple(TensorInfo(name, "float32", None, 0) for name in ("a", "b"))
    with pytest.raises(errors.InvalidArgument, match=r"2 inputs \(a, b\)"):
        only_input(ModelInfo("m", 1, "READY", inputs=two))


def test_absent_server_is_not_ready_and_the_message_says_what_to_look_at() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(errors.NotReady, match="is it running") as caught:
        client.models(timeout=5)
    assert caught.value.code == "UNAVAILABLE"


def test_closed_client_is_not_ready(client: Client) -> None:
    client.close()
    client.close()
    for call in (
        client.models,
        client.health,
        lambda: client.layers("linear"),
        lambda: client.predict("linear", {"x": X}),
        lambda: client.attribute("linear", {"x": X}),
        lambda: client.stream("linear", X),
    ):
        with pytest.raises(errors.NotReady, match="closed"):
            call()


async def test_async_closed_client_is_not_ready(async_client: AsyncClient) -> None:
    await async_client.aclose()
    for call in (
        async_client.models,
        async_client.health,
        lambda: async_client.predict("linear", {"x": X}),
        lambda: async_client.attribute("linear", {"x": X}),
    ):
        with pytest.raises(errors.NotReady, match="closed"):
            await call()


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("inputs.x", {"inputs": {"x": [[1, 2, 3], [4]]}}),
        ("baselines.x", {"baselines": {"x": [[1, 2, 3], [4]]}}),
        ("inputs.1", {"inputs": {1: X}}),
        ("steps", {"steps": 2.5}),
        ("steps", {"steps": "64"}),
        ("steps", {"steps": True}),
        ("max_steps", {"max_steps": 1 << 40}),
        ("tolerance", {"tolerance": "tight"}),
        ("tolerance", {"tolerance": 10**400}),
        ("tolerance", {"tolerance": [0.1]}),
        ("layers", {"layers": 5}),
        ("windows", {"method": "occlusion", "windows": (8, 8)}),
        ("strides", {"method": "occlusion", "strides": {"x": 8}}),
        ("groups", {"method": "occlusion", "groups": {"x": [[0, 1], [2]]}}),
        ("source", {"source": [5]}),
        ("multiply_by_inputs", {"method": "deeplift_rescale", "multiply_by_inputs": "no"}),
        ("request_id", {"request_id": 5}),
    ],
)
def test_wrong_arguments_are_named(client: Client, field: str, options: dict[str, Any]) -> None:
    inputs = options.pop("inputs", {"x": X})
    with pytest.raises(errors.InvalidArgument) as caught:
        client.attribute("linear", inputs, **options)
    assert set(caught.value.violations) == {field}


def test_an_unknown_option_is_named_with_the_known_ones(client: Client) -> None:
    with pytest.raises(
        errors.InvalidArgument, match="neuron_ig has no parameter 'metod'; there are: max_steps, quadrature"
    ):
        client.attribute("linear", X, metod="gradient")


def test_array_for_a_model_with_several_inputs_is_refused(client: Client, engine: FakeEngine) -> None:
    engine.inputs = (TensorInfo("a", "float32", None, 0), TensorInfo("b", "float32", None, 0))
    for given in (X, [X, X], [[1, 2], [3]], 5):
        for call in (client.attribute, client.predict):
            with pytest.raises(errors.InvalidArgument, match=r"2 inputs \(a, b\)"):
                call("linear", given)


def test_one_layer_or_output_may_be_named_without_a_list(client: Client) -> None:
    assert list(client.attribute("linear", X, layers="conv2").layers) == ["conv2"]
    assert list(client.predict("linear", X, "y")) == ["y"]
    with pytest.raises(errors.InvalidArgument):
        client.predict("linear", X, [5])  # type: ignore[list-item]


def test_models_and_layers_are_listed_over_several_pages(client: Client, engine: FakeEngine) -> None:
    assert [info.name for info in client.models()] == ["big", "linear", "slow", "stuck"]
    assert client.layers("linear") == engine.layers("linear")
    assert client.layers("linear", "layer17") == engine.layers("linear", "layer17")
    assert client.layers("linear", target="layer3") == engine.layers("linear", "", "layer3")
    assert client.model("linear") == engine.info("linear")


async def test_async_models_and_layers_are_listed(async_client: AsyncClient, engine: FakeEngine) -> None:
    assert len(await async_client.models()) == 4
    assert await async_client.layers("linear") == engine.layers("linear")
    assert await async_client.model("linear") == engine.info("linear")


def test_health_of_server_and_model_is_known(client: Client) -> None:
    assert client.health()
    assert client.health("models/linear")
    with pytest.raises(errors.NotFound):
        client.health("models/nothing")


def test_importing_the_client_needs_no_onnx_and_no_server() -> None:
    code = "import sys, onnx_attribution.client; print(sorted(sys.modules))"
    source = str(Path(__file__).parents[2] / "src")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source}
    )
    modules = set(ast.literal_eval(result.stdout))
    assert not modules & {"onnx", "onnxruntime", "onnx_graphsurgeon", "pydantic", "structlog"}
    assert "onnx_attribution.server" not in modules


def test_public_is_what_the_package_lists() -> None:
    import onnx_attribution.client as package

    assert package.__all__ == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)

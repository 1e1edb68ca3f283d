"""The kserve package's clients, as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("kserve", reason="kserve is not installed")

import grpc
import httpx
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2

from tests.interop.serving import Addresses, differences, serving

X = np.array([[1, -2], [0.5, 3]], np.float32)
W = np.array([[1, -2, 0.5], [3, 0.25, -1]])


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    folder: Path = tmp_path_factory.mktemp("models")
    with serving(folder) as found:
        yield found


def rest(protocol: str, ask: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=protocol, retries=0)) as client:
            return await ask(client)

    return asyncio.run(main())


def over_grpc(addresses: Addresses, ask: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        async with InferenceGRPCClient(addresses.grpc) as client:
            return await ask(client)

    return asyncio.run(main())


def request(model: str, array: np.ndarray[Any, Any], datatype: str, binary: bool) -> InferRequest:
    one = InferInput("x", list(array.shape), datatype)
    one.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model, [one], request_id="7")


def test_messages_are_those_of_the_client() -> None:
    assert differences(grpc_predict_v2_pb2.DESCRIPTOR) == []


def test_version_1_says_what_is_ready(addresses: Addresses) -> None:
    assert rest("v1", lambda client: client.is_server_live(addresses.http))
    assert rest("v1", lambda client: client.is_model_ready(addresses.http, "square"))
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        rest("v1", lambda client: client.is_model_ready(addresses.http, "squares"))


def test_version_1_predicts(addresses: Addresses) -> None:
    body = {"instances": X.tolist()}
    found = rest("v1", lambda client: client.infer(addresses.http, body, "net"))
    assert np.allclose(found["predictions"], X**2 @ W, atol=1e-6)


def test_version_1_explains(addresses: Addresses) -> None:
    """Of y = x² w the integrated gradients from b are (x² - b²) w."""
    base = np.array([0.5, 1])
    parameters = {
        "method": "integrated_gradients", "target": 1, "baselines": {"x": base.tolist()}, "tolerance": 1e-4
    }  # fmt: skip
    body = {"instances": X.tolist(), "parameters": parameters}
    found = rest("v1", lambda client: client.explain(addresses.http, "net", body))
    for k, one in enumerate(found["explanations"]):
        layer = one["layers"]["x"]
        assert np.allclose(layer["values"], ((X**2 - base**2) * W[:, 1])[k], atol=1e-4)
        assert layer["sum"] == pytest.approx(
            one["target"]["value"] - one["target"]["baseline_value"], abs=1e-4
        )
        assert abs(layer["residual"]) <= layer["error_estimate"] <= 1e-3


def test_version_1_says_what_is_wrong(addresses: Addresses) -> None:
    body = {"instances": X.tolist(), "parameters": {"layers": "hidden"}}
    with pytest.raises(httpx.HTTPStatusError) as caught:
        rest("v1", lambda client: client.explain(addresses.http, "net", body))
    assert caught.value.response.status_code == 404
    assert "hidden" in caught.value.response.json()["error"]


def test_version_2_says_what_is_ready(addresses: Addresses) -> None:
    assert rest("v2", lambda client: client.is_server_live(addresses.http))
    assert rest("v2", lambda client: client.is_server_ready(addresses.http))
    assert rest("v2", lambda client: client.is_model_ready(addresses.http, "square"))
    assert not rest("v2", lambda client: client.is_model_ready(addresses.http, "squares"))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("model", "array", "datatype"),
    [("square", X, "FP32"), ("whole", np.array([[2**60, -1]], np.int64), "INT64")],
)
def test_version_2_and_grpc_infer(
    addresses: Addresses, binary: bool, model: str, array: Any, datatype: str
) -> None:
    asked = request(model, array, datatype, binary)
    for found in (
        rest("v2", lambda client: client.infer(addresses.http, asked, model)),
        over_grpc(addresses, lambda client: client.infer(request(model, array, datatype, binary))),
    ):
        outputs = {one.name: one.as_numpy() for one in found.outputs}
        assert np.array_equal(outputs["y"], array + array)
        assert found.id == "7"


def test_text_over_grpc(addresses: Addresses) -> None:
    words = np.array([["", "häß"]], object)
    found = over_grpc(addresses, lambda client: client.infer(request("text", words, "BYTES", True)))
    assert [one.decode() for one in found.outputs[0].as_numpy().ravel()] == ["", "häß"]


def test_grpc_says_what_is_ready_and_what_is_wrong(addresses: Addresses) -> None:
    assert over_grpc(addresses, lambda client: client.is_server_live())
    assert over_grpc(addresses, lambda client: client.is_server_ready())
    assert over_grpc(addresses, lambda client: client.is_model_ready("square"))
    assert not over_grpc(addresses, lambda client: client.is_model_ready("squares"))
    with pytest.raises(grpc.RpcError, match="no model 'squares'") as caught:
        over_grpc(addresses, lambda client: client.infer(request("squares", X, "FP32", True)))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND

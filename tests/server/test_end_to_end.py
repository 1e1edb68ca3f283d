"""The whole way: a file in a folder, the real engine, a socket, the client. What arrives is what the engine says."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution import errors
from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Accepted, AttributionRequest, Completed, References, Revision, Target
from tests.method_names import METHODS, SOURCE_METHODS, SUMMING_METHODS

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


PEOPLE = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
    people (string[N,1] city, int64[N,2] ids) => (float[N,2] y)
    <float[4,1] table = {1,2,4,8}, float[3,2] W = {1,2,3,4,5,6}> {
        code = ai.onnx.ml.LabelEncoder<keys_strings = ["Bern", "Rome"], values_floats = [1.0, 4.0]>(city)
        rows = Gather(table, ids)
        numbers = Flatten(rows)
        row = Concat<axis = 1>(code, numbers)
        y = MatMul(row, W)
    }"""
ASKED: dict[str, Any] = {"city": [["Rome"], ["Bern"]], "ids": [[1, 2], [3, 0]]}


@pytest.fixture(scope="module")
def engine(
    digits_path: Path, digits_fixed_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    broken = tmp_path_factory.mktemp("broken") / "secret.onnx"
    broken.write_bytes(b"no model")
    with Engine(provider="cpu", threads=2) as engine:
        engine.add("digits", digits_path)
        engine.add("fixed", digits_fixed_path)
        engine.add("broken", broken)
        engine.add("people", onnx.parser.parse_model(PEOPLE))
        yield engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Client]:
    with app.background(engine, Settings(port=0)) as (address, _), Client(address) as client:
        yield client


@pytest.mark.parametrize("model", ["digits", "fixed"])
@pytest.mark.parametrize("method", METHODS)
def test_remote_answer_equals_the_embedded_one(
    engine: Engine, client: Client, digits_data: Digits, model: str, method: str
) -> None:
    images = digits_data[0][:3]
    layers = ["relu1"] if method in SOURCE_METHODS else ["relu1", "dense1"]
    request = AttributionRequest(
        model, {"image": images}, method, layers, target=Target(index=[1, 2, 3]), steps=8
    )
    engine.attribute(request)
    there = client.attribute(model, images, method=method, layers=layers, target=[1, 2, 3], steps=8)
    here = engine.attribute(request)  # as there, the reference of DeepLIFT is kept from the request before
    assert there.target.index == here.target.index == ("1", "2", "3")
    assert (there.batch, there.evaluations, there.digest) == (here.batch, here.evaluations, here.digest)
    for name, layer in here.layers.items():
        remote = there.layers[name]
        np.testing.assert_array_equal(remote.values, layer.values)
        np.testing.assert_array_equal(remote.sum, layer.sum)
        np.testing.assert_array_equal(remote.residual, layer.residual)
        np.testing.assert_array_equal(remote.error_estimate, layer.error_estimate)
        np.testing.assert_array_equal(remote.spread, layer.spread)
        assert remote.cut == layer.cut


def test_a_neuron_and_a_method_inside_of_another_travel(
    engine: Engine, client: Client, digits_data: Digits
) -> None:
    images = digits_data[0][:2]
    through: dict[str, Any] = {"neuron": {"relu1": (3,)}, "steps": 4}
    inside: dict[str, Any] = {
        **through, "of": "neuron_conductance", "draws": 3, "seed": 9, "stdev": 0.5, "absolute": True
    }  # fmt: skip
    for method, given in (("neuron_conductance", through), ("vargrad", inside)):
        here = engine.attribute(AttributionRequest("digits", {"image": images}, method, target=2, **given))
        there = client.attribute("digits", images, method=method, target=2, **given)
        np.testing.assert_array_equal(there.layers["image"].values, here.layers["image"].values)
        assert (here.layers["image"].values != 0).any()


@pytest.mark.parametrize(
    "index",
    [
        np.arange(10) > 6,
        [np.arange(10) > 6, np.arange(10) < 3],
        np.linspace(-1, 1, 10),
        np.stack([np.linspace(-1, 1, 10), np.ones(10)]),
        [[(1,), (3,)]],
        [[(1,), (slice(3, 5),)], 7],
    ],
    ids=["mask", "masks", "weights", "weights of each", "region", "region and element"],
)
def test_masks_weights_and_regions_have_remotely_the_value_that_they_have_embedded(
    engine: Engine, client: Client, digits_data: Digits, index: Any
) -> None:
    images = digits_data[0][:2]
    logits = np.asarray(engine.predict("digits", {"image": images})["logits"], np.float64)
    weights = np.zeros((2, 10))
    for k in range(2):
        one = index[k] if isinstance(index, list) and len(index) == 2 else index
        if isinstance(one, np.ndarray):
            weights[k] = one[k] if one.ndim == 2 else one
        else:
            parts = one if isinstance(one, list) else [one]
            for part in parts[0] if isinstance(parts[0], list) else parts:
                weights[(k, *(part if isinstance(part, tuple) else (part,)))] = 1
    here = engine.attribute(
        AttributionRequest("digits", {"image": images}, "gradient", target=Target(index=index, minus=0))
    )
    there = client.attribute("digits", images, method="gradient", target=Target(index=index, minus=0))
    expected = (weights * logits).sum(axis=1) - logits[:, 0]
    np.testing.assert_allclose(there.target.value, expected, rtol=1e-5)  # of float32
    np.testing.assert_array_equal(there.layers["image"].values, here.layers["image"].values)
    assert there.target.index == here.target.index


NUMBERS = """<ir_version: 8, opset_import: ["" : 17]> numbers (float[N,3] x, float t) => (float[N,3] y) {
    q = Mul(x, t)
    y = Tanh(q)
}"""


@pytest.mark.parametrize("method", METHODS)
def test_a_number_that_samples_share_travels_as_a_source(engine: Engine, client: Client, method: str) -> None:
    engine.add("numbers", onnx.parser.parse_model(NUMBERS))
    inputs = {"x": np.array([[1, 2, 3], [4, 5, 6]], np.float32), "t": np.array(0.5, np.float32)}
    here = engine.attribute(
        AttributionRequest("numbers", inputs, method, source=["x", "t"], target=Target(index=1))
    )
    there = client.attribute("numbers", inputs, method=method, source=["x", "t"], target=1)
    assert there.layers["t"].values.shape == (2,)
    for name, layer in here.layers.items():
        np.testing.assert_array_equal(there.layers[name].values, layer.values)
    assert (here.joint_residual is None) == (there.joint_residual is None)
    if here.joint_residual is not None:
        np.testing.assert_array_equal(here.joint_residual, there.joint_residual)
    assert (here.joint_residual is None) == (method not in SUMMING_METHODS)


SKIP = """<ir_version: 8, opset_import: ["" : 17]> skip (float[N,3] x) => (float[N,3] y) {
    h = Tanh(x)
    left = Sigmoid(h)
    right = Relu(h)
    y = Add(left, right)
}"""


@pytest.mark.parametrize("sums_only", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_the_flow_through_all_layers_travels(
    engine: Engine, client: Client, sums_only: bool, several: bool
) -> None:
    engine.add("skip", onnx.parser.parse_model(SKIP))
    given: dict[str, Any] = {"layers": ["*"], "steps": 4, "sums_only": sums_only}
    given |= {"targets": [0, Target("left", 1)]} if several else {"target": 0}
    x = np.array([[1, -2, 3], [0, 5, 6]], np.float32)
    here = engine.attribute(AttributionRequest("skip", {"x": x}, "neuron_ig", **given))
    there = client.attribute("skip", x, method="neuron_ig", **given)
    assert list(there.layers) == list(here.layers)
    assert here.flow is not None
    assert there.flow is not None
    assert there.flow.cut_sets == here.flow.cut_sets
    np.testing.assert_array_equal(np.array(there.flow.residuals), np.array(here.flow.residuals))
    for name, layer in here.flow.layers.items():
        for field, value in vars(layer).items():
            np.testing.assert_array_equal(getattr(there.flow.layers[name], field), value)
        assert there.layers[name].values.shape == here.layers[name].values.shape
        assert (there.layers[name].values.size == 0) == sums_only
    assert client.attribute("skip", x, method="gradient", layers=["*"], target=0).flow is None


IMPUTED = """<ir_version: 8, opset_import: ["" : 17]> imputed (float[N,2] x) => (float[N,2] y) <float fill = {3}> {
    q = IsNaN(x)
    y = Where(q, fill, x)
}"""


def test_what_is_missing_travels_as_nan(engine: Engine, client: Client) -> None:
    engine.add("imputed", onnx.parser.parse_model(IMPUTED))
    x = np.array([[1, np.nan], [5, 6]], np.float32)
    given: dict[str, Any] = {"method": "occlusion", "target": 0, "baselines": {"x": np.nan}}
    np.testing.assert_array_equal(
        client.attribute("imputed", x, **given).layers["x"].values, [[-2, 0], [2, 0]]
    )
    np.testing.assert_array_equal(client.predict("imputed", x)["y"], [[1, 3], [5, 6]])


def test_references_and_the_point_near_zero_travel(
    engine: Engine, client: Client, digits_data: Digits
) -> None:
    images = digits_data[0][:2]
    given = References(digits_data[0][4:7])
    options: dict[str, Any] = {"method": "deeplift_rescale", "near_zero": "reference"}
    there = client.attribute("digits", images, target=7, baselines={"image": given}, **options)
    here = engine.attribute(
        AttributionRequest(
            "digits", {"image": images}, target=Target(index=7), baselines={"image": given}, **options
        )
    )
    np.testing.assert_array_equal(there.layers["image"].values, here.layers["image"].values)
    np.testing.assert_array_equal(there.layers["image"].spread, here.layers["image"].spread)
    assert (there.layers["image"].spread > 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"baselines": {"city": "Bern", "ids": 3}, "target": 1},
        {"groups": {"city": [5], "ids": [5, 6]}, "target": [0, 1]},
        {"source": ["ids"], "windows": {"ids": (2,)}, "strides": {"ids": (1,)}, "target": 0},
    ],
)
def test_text_and_tokens_are_occluded_remotely_as_embedded(
    engine: Engine, client: Client, options: dict[str, Any]
) -> None:
    there = client.attribute("people", ASKED, method="occlusion", **options)
    arrays = {name: np.asarray(value) for name, value in ASKED.items()}
    fields = {**options, "groups": {n: np.asarray(g) for n, g in options.get("groups", {}).items()}}
    here = engine.attribute(
        AttributionRequest(
            "people", arrays, "occlusion", **{**fields, "target": Target(index=options["target"])}
        )
    )
    assert list(there.layers) == list(here.layers)
    assert there.evaluations == here.evaluations
    for name, layer in here.layers.items():
        assert np.any(layer.values)
        np.testing.assert_array_equal(there.layers[name].values, layer.values)
        assert np.isnan(there.layers[name].residual).all()


async def test_the_async_client_occludes_windows(engine: Engine, digits_data: Digits) -> None:
    server = app.build(engine, Settings(port=0))
    port = await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        result = await client.attribute(
            "digits", digits_data[0][:2], method="occlusion", target=7, windows={"image": (4, 4)}
        )
    await server.drain()
    values = result.layers["image"].values.reshape(2, 2, 4, 2, 4)
    assert (values == values[:, :, :1, :, :1]).all()
    assert len(np.unique(values)) > 4


def test_a_token_outside_the_table_is_an_invalid_argument(client: Client) -> None:
    wrong = {**ASKED, "ids": [[1, 2], [4, 0]]}
    for call in (client.predict, client.attribute):
        with pytest.raises(errors.InvalidArgument, match=r"'ids' holds 4; .* looks up 0 to 3$") as caught:
            call("people", wrong)
        assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "INPUT_INVALID")
        assert list(caught.value.violations) == ["inputs.ids"]


def test_predictions_are_right(client: Client, digits_data: Digits) -> None:
    images, labels = digits_data
    logits = client.predict("digits", images[:100])["logits"]
    assert (logits.argmax(1) == labels[:100]).mean() > 0.95


def test_revisions_refine_until_the_error_is_below_the_tolerance(client: Client, digits_data: Digits) -> None:
    with client.stream("digits", digits_data[0][:4], layers="relu2", steps=4, tolerance=0.01) as stream:
        events = list(stream)
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Completed)
    assert events[-1].stop_reason == "converged"
    errors_seen = [
        event.attribution.layers["relu2"].error_estimate.max()
        for event in events
        if isinstance(event, Revision)
    ]
    assert len(errors_seen) > 1
    assert errors_seen[-1] < errors_seen[0]


async def test_async_client_gets_the_same(engine: Engine, digits_data: Digits) -> None:
    server = app.build(engine, Settings(port=0))
    port = await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        result = await client.attribute("digits", digits_data[0][:2], method="deeplift_rescale", target=7)
    await server.drain()
    layer = result.layers["image"]
    assert np.abs(layer.residual).max() <= 1e-5 * np.abs(layer.values).sum(axis=(1, 2, 3)).max()


WRONG: list[tuple[dict[str, Any], type[errors.AttributionError], str, str]] = [
    ({"target": 10}, errors.InvalidArgument, "TARGET_INVALID", "10"),
    ({"target": [1, 2]}, errors.InvalidArgument, "TARGET_INVALID", "2"),
    ({"target": Target("nope")}, errors.NotFound, "NODE_NOT_FOUND", "nope"),
    ({"layers": "nope"}, errors.NotFound, "NODE_NOT_FOUND", "nope"),
    ({"source": "nope"}, errors.NotFound, "NODE_NOT_FOUND", "nope"),
    ({"layers": "relu1", "target": Target("conv1", (0, 0, 0))}, errors.NotDifferentiable, "NO_PATH", "relu1"),
    ({"baselines": {"nope": 0.0}}, errors.InvalidArgument, "BASELINE_INVALID", "nope"),
    ({"baselines": {"image": np.zeros(3)}}, errors.InvalidArgument, "BASELINE_INVALID", "image"),
    ({"inputs": {}}, errors.InvalidArgument, "INPUT_MISSING", "image"),
    ({"inputs": np.zeros((1, 1, 8, 7), np.float32)}, errors.InvalidArgument, "SHAPE_MISMATCH", "image"),
    ({"inputs": np.zeros((1, 1, 8, 8), np.int32)}, errors.InvalidArgument, "DTYPE_MISMATCH", "image"),
    (
        {"inputs": np.full((1, 1, 8, 8), np.nan, np.float32)},
        errors.InvalidArgument,
        "NON_FINITE_INPUT",
        "image",
    ),
    ({"inputs": np.zeros((300, 1, 8, 8), np.float32)}, errors.InvalidArgument, "REQUEST_TOO_LARGE", "image"),
    ({"steps": 0}, errors.InvalidArgument, "PARAMETER_INVALID", "steps"),
    ({"model": "nope"}, errors.NotFound, "MODEL_NOT_FOUND", "nope"),
    ({"model": "digits/versions/7"}, errors.NotFound, "VERSION_NOT_FOUND", "7"),
    ({"model": "broken"}, errors.ModelError, "MODEL_LOAD_FAILED|MODEL_INVALID", "broken"),
]


@pytest.mark.parametrize(
    ("arguments", "kind", "reason", "named"), WRONG, ids=[f"{w[2]}-{w[3]}" for w in WRONG]
)
def test_wrong_request_gets_its_status_and_names_what_is_wrong(
    client: Client,
    digits_data: Digits,
    arguments: dict[str, Any],
    kind: type[errors.AttributionError],
    reason: str,
    named: str,
) -> None:
    images = digits_data[0][:3]
    with pytest.raises(kind) as caught:
        client.attribute(**{"model": "digits", "inputs": images, "target": 1, **arguments})
    assert type(caught.value) is kind
    assert caught.value.reason in reason.split("|")
    assert named in caught.value.message
    assert not re.search(r"Traceback|\.py\b|/tmp|<class|Error\b", caught.value.message)
    assert client.predict("digits", images)["logits"].shape == (3, 10)


def test_models_are_listed_with_their_state(client: Client) -> None:
    with pytest.raises(errors.ModelError):
        client.model("broken")
    states = {info.name: info.state for info in client.models()}
    assert states["broken"] == "FAILED"
    assert client.model("digits").state == "READY"
    assert client.model("fixed").batch == "freed"


def test_served_folder_answers_and_ends_by_a_signal(digits_path: Path, tmp_path: Path) -> None:
    (tmp_path / "digits" / "3").mkdir(parents=True)
    shutil.copy(digits_path, tmp_path / "digits" / "3" / "model.onnx")
    command = [sys.executable, "-m", "onnx_attribution.server", str(tmp_path)]
    source = str(Path(__file__).parents[2] / "src")
    environment = {
        "PYTHONPATH": source,
        "ONNX_ATTRIBUTION_PORT": "0",
        "ONNX_ATTRIBUTION_PROVIDER": "cpu",
        "NO_COLOR": "1",
    }
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        match = re.search(r"port=(\d+)", line)
        assert match is not None, line + process.stderr.read()
        with Client(f"127.0.0.1:{match[1]}") as client:
            info = client.model("digits")
            assert (info.version, info.state) == (3, "READY")
            assert client.layers("digits", "conv1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert "stopped" in process.stderr.read()


def test_server_says_in_a_line_what_keeps_it_from_starting(tmp_path: Path) -> None:
    source = str(Path(__file__).parents[2] / "src")
    for argument, variables, said in (
        ("nothing", {}, "no folder or file"),
        (".", {"ONNX_ATTRIBUTION_HOST": "0.0.0.0"}, "other machines"),
    ):
        command = [sys.executable, "-m", "onnx_attribution.server", argument]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": source, **variables}
        )
        assert result.returncode == 2
        assert said in result.stderr
        assert "Traceback" not in result.stderr

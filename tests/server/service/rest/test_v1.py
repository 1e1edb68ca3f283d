"""Version 1 of KServe's protocol: predictions, and explanations with the means to doubt them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.parser import parse_model

from onnx_attribution.errors import ModelError
from onnx_attribution.server.engine.engine import Engine
from onnx_attribution.server.service.rest.rest import Rest
from tests.server.fake_engine import FakeEngine, W, X
from tests.server.service.rest.asking import ask, rest_of, said

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
W2 = np.array([[1, -2, 0.5], [3, 0.25, -1]], np.float32)  # [hidden, classes]


@pytest.fixture(scope="module")
def rest() -> Rest:
    return rest_of(FakeEngine({"failed": ModelError("no")}), max_samples=4, max_steps=128)


@pytest.fixture(scope="module")
def real() -> Iterator[Rest]:
    """`net`: y = x² W2; `two` with a second input that counts; `late`, whose batch axis is the second; `shared`."""
    weights = f"<float[2, 3] w = {{{', '.join(map(str, W2.ravel().tolist()))}}}>"
    with Engine(provider="cpu", threads=1) as engine:
        engine.add(
            "net",
            parse_model(
                f"{HEAD} g (float[N, 2] x) => (float[N, 3] y) {weights} {{ h = Mul(x, x) y = MatMul(h, w) }}"
            ),
        )
        two = "g (float[N, 2] a, int64[N] n) => (float[N, 2] y, int64[N] m) { y = Mul(a, a) m = Add(n, n) }"
        engine.add("two", parse_model(f"{HEAD} {two}"))
        engine.add(
            "late",
            parse_model(f"{HEAD} g (float[3, N] x) => (float[3, N] y) {{ y = Mul(x, x) }}"),
            batch_axes={"x": 1},
        )
        shared = "g (float[N, 2] a, float s) => (float[N, 2] y) { y = Mul(a, s) }"
        engine.add("shared", parse_model(f"{HEAD} {shared}"), batch_axes={"a": 0, "s": None})
        yield rest_of(engine)


def test_server_and_models(rest: Rest) -> None:
    assert said(ask(rest, "GET", "/")) == {"status": "alive"}
    assert said(ask(rest, "GET", "/v1/models"))["models"] == ["big", "failed", "linear", "slow", "stuck"]
    assert said(ask(rest, "GET", "/v1/models/linear")) == {"name": "linear", "ready": True}
    assert ask(rest, "GET", "/v1/models/failed").status == 503
    unknown = ask(rest, "GET", "/v1/models/no")
    assert (unknown.status, said(unknown)["reason"]) == (404, "MODEL_NOT_FOUND")


@pytest.mark.parametrize(
    "body",
    [
        {"instances": X.tolist()},
        {"instances": [{"x": row} for row in X.tolist()]},
        {"inputs": X.tolist()},
        {"inputs": {"x": X.tolist()}},
    ],
)
def test_predictions_of_instances_and_inputs(rest: Rest, body: object) -> None:
    for path in ("linear", "linear/versions/1"):
        answer = ask(rest, "POST", f"/v1/models/{path}:predict", body)
        assert (answer.status, said(answer)) == (200, {"predictions": (X @ W).tolist(), "model_version": "1"})


def test_several_inputs_and_outputs_go_by_name(real: Rest) -> None:
    rows = [{"a": [1, 2], "n": 3}, {"a": [0, -1.5], "n": 2**53 + 1}]
    found = said(ask(real, "POST", "/v1/models/two:predict", {"instances": rows}))["predictions"]
    assert found == {"y": [[1, 4], [0, 2.25]], "m": [6, 2**54 + 2]}


def test_instances_lie_along_the_batch_axis(real: Rest) -> None:
    found = said(ask(real, "POST", "/v1/models/late:predict", {"instances": [[1, 2, 3], [4, 5, 6]]}))
    assert found["predictions"] == [[1, 16], [4, 25], [9, 36]]


def test_input_without_a_batch_axis_is_the_same_for_all_instances(real: Rest) -> None:
    rows = [{"a": [1, 2], "s": 2}, {"a": [3, 4], "s": 2}]
    found = said(ask(real, "POST", "/v1/models/shared:predict", {"instances": rows}))
    assert found["predictions"] == [[2, 4], [6, 8]]
    rows[1]["s"] = 3
    answer = ask(real, "POST", "/v1/models/shared:predict", {"instances": rows})
    assert (answer.status, said(answer)["reason"]) == (400, "INPUT_INVALID")
    assert "no batch axis" in said(answer)["error"]


ROWS = np.array([[1, -2], [0.5, 3]])


@pytest.mark.parametrize("target", [1, [1, 1], [[1], [1]], {"index": 1}, {"tensor": "y", "index": [1, 1]}])
def test_explanation_has_the_values_of_the_definition(real: Rest, target: object) -> None:
    """Of y = x² w the integrated gradients from b are (x - b)(x + b) w."""
    base = np.array([0.5, 1])
    parameters = {
        "method": "integrated-gradients", "target": target, "baselines": {"x": base.tolist()}, "tolerance": 1e-4
    }  # fmt: skip
    body = {"instances": ROWS.tolist(), "parameters": parameters}
    found = said(ask(real, "POST", "/v1/models/net:explain", body))
    expected = (ROWS**2 - base**2) * W2[:, 1]
    assert (found["method"], found["model_name"], found["model_version"]) == (
        "integrated_gradients",
        "net",
        "1",
    )
    assert len(found["explanations"]) == 2
    for k, one in enumerate(found["explanations"]):
        layer = one["layers"]["x"]
        assert np.allclose(layer["values"], expected[k], atol=1e-4)
        assert layer["sum"] == pytest.approx(expected[k].sum(), abs=1e-4)
        assert abs(layer["residual"]) <= 1e-4
        assert layer["error_estimate"] <= 1e-3
        assert (layer["cut"], layer["spread"], one["target"]["tensor"]) == (True, None, "y")
        assert one["target"]["value"] == pytest.approx((ROWS**2 @ W2)[k, 1])
        assert one["target"]["baseline_value"] == pytest.approx((base**2 @ W2)[1])


def test_layers_and_default_target_and_bare_baseline(real: Rest) -> None:
    parameters = {"layers": "h", "baselines": 0, "method": "deeplift_rescale"}
    found = said(
        ask(real, "POST", "/v1/models/net:explain", {"inputs": ROWS.tolist(), "parameters": parameters})
    )
    largest = (ROWS**2 @ W2).argmax(1)
    for k, one in enumerate(found["explanations"]):
        assert one["target"]["index"] == str(largest[k])
        assert np.allclose(one["layers"]["h"]["values"], ROWS[k] ** 2 * W2[:, largest[k]], atol=1e-5)
        assert one["layers"]["h"]["error_estimate"] is None


def test_several_targets_answer_for_each(real: Rest) -> None:
    parameters = {"method": "gradient", "targets": [0, {"index": 2, "minus": 0}]}
    found = said(
        ask(real, "POST", "/v1/models/net:explain", {"instances": ROWS.tolist(), "parameters": parameters})
    )
    for k, one in enumerate(found["explanations"]):
        first, second = (each["layers"]["x"]["values"] for each in one["targets"])
        assert np.allclose(first, 2 * ROWS[k] * W2[:, 0], atol=1e-5)
        assert np.allclose(second, 2 * ROWS[k] * (W2[:, 2] - W2[:, 0]), atol=1e-5)


def test_references_and_groups(real: Rest) -> None:
    points = [[0, 0], [1, 1]]
    parameters: dict[str, Any] = {
        "method": "integrated_gradients", "target": 0, "baselines": {"references": points}
    }  # fmt: skip
    body = {"instances": ROWS.tolist(), "parameters": parameters}
    (one, _) = said(ask(real, "POST", "/v1/models/net:explain", body))["explanations"]
    expected = np.mean([(ROWS[0] ** 2 - np.square(b)) * W2[:, 0] for b in points], axis=0)
    assert np.allclose(one["layers"]["x"]["values"], expected, atol=0.02)  # the default tolerance is 1 %
    assert one["layers"]["x"]["spread"] > 0
    body["parameters"] = {"method": "occlusion", "target": 0, "groups": {"x": [0, 0]}}
    (one, _) = said(ask(real, "POST", "/v1/models/net:explain", body))["explanations"]
    assert np.allclose(one["layers"]["x"]["values"], [(ROWS[0] ** 2 @ W2)[0]] * 2, atol=1e-5)
    assert one["layers"]["x"]["residual"] is None


def test_masks_and_weights_are_targets(real: Rest) -> None:
    weights = [0.5, 0, 2]
    for index, combined in (
        ({"weights": weights}, W2 @ weights),
        ({"mask": [True, False, True]}, W2 @ [1, 0, 1]),
    ):
        body = {"instances": ROWS.tolist(), "parameters": {"method": "gradient", "target": index}}
        (one, _) = said(ask(real, "POST", "/v1/models/net:explain", body))["explanations"]
        assert np.allclose(one["layers"]["x"]["values"], 2 * ROWS[0] * combined, atol=1e-5)


def test_time_that_is_over_is_said(rest: Rest) -> None:
    body = {"instances": X.tolist(), "parameters": {"seconds": 0.3}}
    answer = ask(rest, "POST", "/v1/models/stuck:explain", body)
    assert (answer.status, said(answer)["reason"]) == (504, "DEADLINE_TOO_SHORT")
    found = said(ask(rest, "POST", "/v1/models/slow:explain", body))
    assert found["stop_reason"] == "deadline_near"


ASK = {"instances": X.tolist()}
WRONG: dict[str, tuple[object, str, str]] = {
    "nothing": ({}, "INPUT_MISSING", "give instances"),
    "both": ({**ASK, "inputs": []}, "INPUT_MISSING", "give instances"),
    "no list": ({"instances": 3}, "INPUT_INVALID", "instances is a list"),
    "empty": ({"instances": []}, "INPUT_INVALID", "instances is a list"),
    "unlike": ({"instances": [{"x": [1, 2, 3]}, {}]}, "INPUT_INVALID", "the same inputs"),
    "ragged": ({"instances": [[1, 2, 3], [1]]}, "SHAPE_MISMATCH", "different lengths"),
    "text": ({"instances": [["a", "b", "c"]]}, "DTYPE_MISMATCH", "expected numbers"),
    "unknown input": ({"instances": [{"z": 1}]}, "INPUT_UNKNOWN", "no input 'z'; the model has: x"),
    "parameters": ({**ASK, "parameters": [1]}, "PARAMETER_INVALID", "parameters is an object"),
    "method": ({**ASK, "parameters": {"method": 3}}, "PARAMETER_INVALID", "is a name"),
    "unknown method": ({**ASK, "parameters": {"method": "ig"}}, "", "ig"),
    "unknown parameter": ({**ASK, "parameters": {"stepps": 3}}, "PARAMETER_INVALID", "stepps"),
    "steps": ({**ASK, "parameters": {"steps": 1000}}, "PARAMETER_INVALID", "at most 128"),
    "target": ({**ASK, "parameters": {"target": "y"}}, "TARGET_INVALID", "a target is an index"),
    "target field": ({**ASK, "parameters": {"target": {"output": "y"}}}, "TARGET_INVALID", "no 'output'"),
    "targets": ({**ASK, "parameters": {"targets": 3}}, "TARGET_INVALID", "targets is a list"),
    "target and targets": (
        {**ASK, "parameters": {"targets": [1], "target": 1}},
        "TARGET_INVALID",
        "not both",
    ),
    "layers": ({**ASK, "parameters": {"layers": 3}}, "PARAMETER_INVALID", "a name or a list of names"),
    "baseline": (
        {**ASK, "parameters": {"baselines": {"x": {"mean": 1}}}},
        "BASELINE_INVALID",
        "has references",
    ),
    "sums": ({**ASK, "parameters": {"sums_only": "no"}}, "PARAMETER_INVALID", "sums_only is true or false"),
    "seconds": ({**ASK, "parameters": {"seconds": -1}}, "PARAMETER_INVALID", "a number above 0"),
    "long": ({**ASK, "parameters": {"seconds": 1e6}}, "DEADLINE_TOO_LONG", "at most"),
    "samples": ({"instances": [[1, 2, 3]] * 5}, "REQUEST_TOO_LARGE", "at most 4"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_json(rest: Rest, case: str) -> None:
    body, reason, text = WRONG[case]
    answer = ask(rest, "POST", "/v1/models/linear:explain", body)
    found = said(answer)
    assert answer.status in (400, 404)
    assert reason in ("", found["reason"])
    assert text in found["error"]


def test_large_answer_names_what_is_smaller(rest: Rest) -> None:
    answer = ask(rest, "POST", "/v1/models/big:explain", ASK)
    assert (answer.status, said(answer)["reason"]) == (400, "RESULT_TOO_LARGE")


def test_target_has_the_name_of_its_class(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    text = f"{HEAD} g (float[N, 2] x) => (float[N, 2] y) {{ y = Mul(x, x) }}"
    (folder / "model.onnx").write_bytes(parse_model(text).SerializeToString())
    (folder / "model.toml").write_text('[class_names]\ny = ["left", "right"]')
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("m", folder / "model.onnx")
        body = {"instances": [[1, 2], [2, 1]], "parameters": {"method": "gradient"}}
        found = said(ask(rest_of(engine), "POST", "/v1/models/m:explain", body))["explanations"]
    assert [one["target"]["label"] for one in found] == ["right", "left"]

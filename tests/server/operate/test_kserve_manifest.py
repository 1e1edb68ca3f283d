"""deploy/kserve.yaml: what KServe makes of it starts our server, which explains the model of the service's name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from onnx_attribution.server.settings import PREFIX, Settings

ROOT = Path(__file__).parents[3]
SERVICE = yaml.safe_load((ROOT / "deploy" / "kserve.yaml").read_text())
EXPLAINER = SERVICE["spec"]["explainer"]
(CONTAINER,) = EXPLAINER["containers"]
VARIABLES = {one["name"]: one["value"] for one in CONTAINER["env"]}
DIGITS = ROOT / "tests" / "data" / "digits"


def test_explainer_is_our_image_on_the_port_of_http() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert (CONTAINER["name"], CONTAINER["image"]) == ("kserve-container", f"onnx-attribution:{version}")
    (port,) = CONTAINER["ports"]  # Knative takes one
    probes = {CONTAINER[f"{kind}Probe"]["httpGet"]["port"] for kind in ("readiness", "liveness")}
    assert probes == {port["containerPort"]} == {Settings().http_address[1]}
    assert VARIABLES["STORAGE_URI"] == SERVICE["spec"]["predictor"]["model"]["storageUri"]


def test_variables_are_settings() -> None:
    own = {name.removeprefix(PREFIX).lower(): value for name, value in VARIABLES.items() if PREFIX in name}
    settings = Settings(**own)
    assert (settings.kserve, settings.http_host, settings.allow_insecure) == (True, "0.0.0.0", True)


def test_container_starts_with_what_kserve_adds_to_its_arguments(tmp_path: Path) -> None:
    name = SERVICE["metadata"]["name"]
    (tmp_path / name / "1").mkdir(parents=True)
    shutil.copy(DIGITS / "digits.onnx", tmp_path / name / "1" / "model.onnx")
    added = ["--model_name", name, "--predictor_host", f"{name}-predictor.default", "--http_port", "8080"]
    command = [part.replace("/mnt/models", str(tmp_path)) for part in CONTAINER["command"]]
    here = {"HTTP_HOST": "127.0.0.1", "PORT": "0", "PROVIDER": "cpu", "THREADS": "1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, **VARIABLES, "PATH": path, **{PREFIX + key: x for key, x in here.items()}}
    with subprocess.Popen(
        [*command, *CONTAINER["args"], *added], stdout=subprocess.PIPE, text=True, env=variables
    ) as process:
        try:
            assert process.stdout is not None
            match = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert match is not None
            found = explain(f"{match[0]}/v1/models/{name}:explain")
        finally:
            process.terminate()
        assert process.wait(20) == 0
    layer = found["explanations"][0]["layers"]["image"]
    assert abs(np.sum(layer["values"]) - layer["sum"]) < 1e-3 * abs(layer["sum"])


def explain(url: str) -> Any:
    image = np.load(DIGITS / "digits.npz")["images"][0]
    body = json.dumps(
        {"instances": [image.tolist()], "parameters": {"steps": 8, "method": "integrated_gradients"}}
    )
    with urllib.request.urlopen(urllib.request.Request(url, body.encode()), timeout=60) as response:
        return json.load(response)

"""The scripts of examples/ run on their own, are short, and print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings

ROOT = Path(__file__).parents[1]
LONGEST = 59
PRINTED = {
    "batch_with_baselines": r"batch dynamic: 4 samples with 3 baselines, \d+ evaluations\n(.*\n){5}",
    "deeplift_references": r"zeros: sum (\d+\.\d\d)\d+ of a change of \1\d+\n.*sum (\d+\.\d\d)\d+ of a change of \2",
    "embedded": r"a change of (0\.9\d\d)\d+\n(.*\n){3}  sum +\1\d+ +residual",
    "patching": r"in the nine: (-\d+\.\d\d)\d, in the four: \1\d\n(  channel .*\n){3}without .*: \d",
    "hidden_layer": r"branch +cut: no .*\njoined +cut: yes .*\nwhat bypasses the branch: -",
    "server_and_client": r"accepted: .*\n( +\d+ steps: .*\n){2,}converged; revision \d+ is the best\n",
    "tree_ensemble": r"prediction (\d+\.\d\d), sklearn says \1\n(  \w+ +[+-]\d+\.\d\d\n){10}",
}
"""What each prints, as a pattern: numbers that must agree are a group that comes twice."""


def test_every_example_is_known() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == PRINTED.keys()


@pytest.mark.parametrize("name", PRINTED)
def test_examples_run_and_print(name: str) -> None:
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) <= LONGEST
    result = subprocess.run(
        [sys.executable, "-W", "error", path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert result.returncode == 0, result.stderr
    assert re.search(PRINTED[name], result.stdout), result.stdout


def test_the_request_as_json_is_one_that_the_server_answers(digits_path: Path) -> None:
    request = json_format.Parse((ROOT / "examples" / "attribute.json").read_text(), pb.AttributeRequest())
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _), grpc.insecure_channel(address) as channel:
            answer = rpc.AttributionServiceStub(channel).Attribute(request, timeout=30)
    [layer] = answer.summary.layers
    change = answer.summary.target.values[0] - answer.summary.target.baseline_values[0]
    assert layer.name == "conv2"
    assert layer.sums[0] == pytest.approx(change, rel=1e-2)

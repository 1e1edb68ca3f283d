"""What docs/scale.md tells those who are in Ray Data runs as it stands there, and gives what an engine gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed: make scale installs it")
pytest.importorskip("pandas", reason="Ray Data needs pandas")
import onnx
import pyarrow
from onnx import parser
from pyarrow import parquet

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest
from tests.cluster.conftest import ROOT

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
t (float[N,4] x) => (float[N,1] y) <float[4,3] a = {1,2,-3,4,-5,6,7,8,9,-1,2,3}, float[3,1] b = {1,-1,2}> {
    p = MatMul(x, a)
    conv2 = Relu(p)
    y = MatMul(conv2, b)
}
"""


def recipe() -> str:
    page = (ROOT / "docs" / "scale.md").read_text()
    (found,) = re.findall(r"```python\n(import numpy as np\nimport ray\.data.*?)```", page, re.DOTALL)
    return str(found)


def test_the_recipe_for_ray_data(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).random((40, 4)).astype(np.float32)
    onnx.save(parser.parse_model(MODEL), tmp_path / "model.onnx")
    parquet.write_table(pyarrow.table({"x": list(x), "id": range(40)}), tmp_path / "d.parquet")
    code = recipe().replace("/data/", f"{tmp_path}/").replace("concurrency=4", "concurrency=1")
    exec(compile(code, "scale.md", "exec"), {"__name__": "__main__"})
    found = parquet.read_table(tmp_path / "sums").sort_by("id")
    with Engine(provider="cpu") as engine:
        engine.add("m", tmp_path / "model.onnx")
        right = engine.attribute(AttributionRequest("m", {"x": x}, "neuron_ig", ("conv2",)))
    assert found["id"].to_pylist() == list(range(40))
    np.testing.assert_allclose(found["sum"].to_numpy(), right.layers["conv2"].sum, rtol=1e-5)

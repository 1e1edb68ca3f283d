"""A file with further classes is written only if runs prove that it says what the old one says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.programs.head import find_head, widened
from onnx_attribution.server.engine.added import require_same
from tests.graph_tools.programs.heads import HEADS, model_of, rows_of

NAMES = ["zebra", "quagga"]


def proven(name: str, tamper: str = "", by: float = 1e-6) -> None:
    """Proves a widened file in which the numbers of some weights are changed."""
    model = model_of(HEADS[name])
    head = find_head(model)
    random = np.random.default_rng(2)
    weight, bias = random.normal(size=(2, 6)), random.normal(size=2)
    changed: onnx.ModelProto = widened(model, head, NAMES, weight, bias)
    for one in changed.graph.initializer:
        if tamper and (one.name == tamper or one.name.endswith(tamper)):
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(1 + by), one.name))
    x = rows_of(model, 1)
    h: NDArray[Any] = np.maximum(x.astype(np.float64), 0)
    features = h.mean(axis=(2, 3))[0] if h.ndim == 4 else h.reshape(-1)
    require_same(model, changed, head, weight, bias, [({"x": x}, features)])


@pytest.mark.parametrize("name", ["Gemm", "MatMul and Add", "Conv before a pool", "float16", "tokens of one"])
def test_what_is_the_same_passes(name: str) -> None:
    proven(name)


def test_a_changed_bit_of_an_old_logit_is_refused() -> None:
    with pytest.raises(
        ModelError, match="onnxruntime gives other logits for the classes that were there"
    ) as caught:
        proven("Gemm", "w")
    assert caught.value.reason == Reason.HEAD_INVALID


def test_new_logits_that_are_not_those_of_the_weights_are_refused() -> None:
    with pytest.raises(ModelError, match="are not the linear map of 'h'"):
        proven("Gemm", "added.weight", by=0.1)

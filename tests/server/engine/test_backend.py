"""Sessions compute what the file says: optimisations of onnxruntime that change it are switched off."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.server.engine.backend import Backend
from tests.programs import parsed


@pytest.mark.parametrize("pads", [[0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0, 0]])
def test_a_pad_by_zeros_before_a_max_pool_keeps_its_zeros(pads: list[int], rng: np.random.Generator) -> None:
    model = parsed(f"""net (float[N,2,4,4] x) => (float[N,2,h,w] z) {{
  pads = Constant<value_ints = {pads}>()
  p = Pad(x, pads)
  z = MaxPool<kernel_shape=[2,2], pads=[0,0,0,0]>(p)
}}""")
    x = -rng.uniform(1, 2, size=(3, 2, 4, 4)).astype(np.float32)  # below the zeros of the pad
    padded = np.pad(x, list(zip(pads[:4], pads[4:], strict=True)))
    expected = np.lib.stride_tricks.sliding_window_view(padded, (2, 2), axis=(2, 3)).max(axis=(-2, -1))
    np.testing.assert_array_equal(Backend("cpu").run(model, {"x": x}, ["z"])["z"], expected)

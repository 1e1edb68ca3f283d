"""Models of which it is known what decides, and methods of which it is known what they see.

`one_channel`: three channels are convolved, and only the second counts; `shortcut`: a bright corner decides, whatever
the rest shows. Both in numpy and onnx only.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

SIDE, CORNER = 12, 3
Images = NDArray[np.float32]


def one_channel() -> onnx.ModelProto:
    """`[N, 3, 12, 12]` to two logits, of the contrast in the second channel and its negative: filters of the others
    end in weights of 0."""
    rng = np.random.default_rng(5)
    first = np.zeros((6, 3, 3, 3), np.float32)
    for k in range(6):  # two filters for each channel
        first[k, k // 2] = rng.normal(size=(3, 3))
    first[2] = first[3] = 0
    first[2, 1] = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    first[3, 1] = -first[2, 1]
    head = np.zeros((6, 2), np.float32)
    head[2], head[3] = (1, -1), (1, -1)
    return _model(first, head)


def shortcut() -> onnx.ModelProto:
    """`[N, 1, 12, 12]` to two logits: the light in the upper left corner, and a faint echo of the whole image."""
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    net (float[N, 1, {SIDE}, {SIDE}] image) => (float[N, 2] logits) {{
        flat = Flatten (image)
        h = Gemm (flat, first, bias)
        r = Relu (h)
        logits = MatMul (r, head)
    }}"""
    rng = np.random.default_rng(6)
    first = rng.normal(0, 0.002, (SIDE, SIDE, 8)).astype(np.float32)
    first[:CORNER, :CORNER, :4] += np.float32(1 / CORNER**2)
    head = np.zeros((8, 2), np.float32)
    head[:4], head[4:] = (2, -2), rng.normal(0, 0.1, (4, 2))
    made = onnx.parser.parse_model(text)
    _add(made, first=first.reshape(-1, 8), bias=np.full(8, 0.05, np.float32), head=head)
    return made


def corner_mask(samples: int) -> NDArray[np.bool_]:
    mask = np.zeros((samples, 1, SIDE, SIDE), bool)
    mask[:, :, :CORNER, :CORNER] = True
    return mask


def corners(samples: int) -> Images:
    """Images with a bright corner and something brighter elsewhere, which counts for nothing."""
    rng = np.random.default_rng(7)
    images = rng.uniform(0, 0.3, (samples, 1, SIDE, SIDE))
    images[:, :, :CORNER, :CORNER] += 0.5
    for image in images:
        y, x = rng.integers(CORNER + 1, SIDE - 3, 2)
        image[0, y : y + 3, x : x + 3] += 0.7
    return images.astype(np.float32)


def colours(samples: int) -> Images:
    """Images with a square in each channel, at places of their own."""
    rng = np.random.default_rng(8)
    images = rng.uniform(0, 0.2, (samples, 3, SIDE, SIDE))
    for image in images:
        for channel in image:
            y, x = rng.integers(1, SIDE - 4, 2)
            channel[y : y + 3, x : x + 3] += rng.uniform(0.4, 0.8)
    return images.astype(np.float32)


def channel_mask(samples: int) -> NDArray[np.bool_]:
    mask = np.zeros((samples, 3, SIDE, SIDE), bool)
    mask[:, 1] = True
    return mask


def edges(images: Images) -> NDArray[np.float64]:
    """A map that shows the edges of an image and nothing of the model."""
    x = images.astype(np.float64)
    down, right = np.diff(x, axis=2, append=x[:, :, -1:]), np.diff(x, axis=3, append=x[..., -1:])
    return np.abs(down) + np.abs(right)


def _model(first: Images, head: Images) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 20]>
        net (float[N, 3, {SIDE}, {SIDE}] image) => (float[N, 2] logits) {{
            h = Conv <pads = [1, 1, 1, 1]> (image, first)
            r = Relu (h)
            p = GlobalAveragePool (r)
            f = Flatten (p)
            logits = Gemm (f, head)
        }}"""
    )
    _add(made, first=first, head=head)
    return made


def _add(model: onnx.ModelProto, **constants: Images) -> None:
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())

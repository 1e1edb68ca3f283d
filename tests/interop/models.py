"""Models whose answers are known by heart, as files: `python -m tests.interop.models FOLDER`, beside onnx."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
from onnx.parser import parse_model

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
TEXTS = {
    "square/1": "g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z) { y = Mul(x, x) z = Neg(x) }",
    "square/2": "g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z) { y = Add(x, x) z = Neg(x) }",
    "net": """g (float[N, 2] x) => (float[N, 3] y) <float[2, 3] w = {1, -2, 0.5, 3, 0.25, -1}>
              { h = Mul(x, x) y = MatMul(h, w) }""",
    "text": "g (string[N, 2] x) => (string[N, 2] y) { y = Identity(x) }",
    "whole": "g (int64[N, 2] x) => (int64[N, 2] y) { y = Add(x, x) }",
    "half": "g (float16[N, 2] x) => (float16[N, 2] y) { y = Add(x, x) }",
    "truth": "g (bool[N, 2] x) => (bool[N, 2] y) { y = Not(x) }",
}


def write(folder: Path) -> None:
    for name, text in TEXTS.items():
        (folder / name).mkdir(parents=True)
        onnx.save(parse_model(f"{HEAD} {text}"), folder / name / "model.onnx")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

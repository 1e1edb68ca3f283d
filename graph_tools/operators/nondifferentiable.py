"""Operators that stop every gradient, with the reason in words."""

from __future__ import annotations

from onnx_attribution.graph_tools.operators.registry import zero

zero(
    "depends on the shape or the type of its input only",
    "ConstantOfShape", "EyeLike", "RandomNormalLike", "RandomUniformLike", "Shape", "Size",
)  # fmt: skip
zero("has no input that a gradient could reach", "Constant", "RandomNormal", "RandomUniform")
zero("draws at random", "Bernoulli", "Multinomial")
zero(
    "compares: its output is true or false",
    "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual",
)  # fmt: skip
zero("works on true and false", "And", "Not", "Or", "Xor")
zero(
    "works on the bits of integers",
    "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
)  # fmt: skip
zero("its output is a position", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero")
zero("is constant between jumps", "Ceil", "Floor", "Hardmax", "Round", "Sign")
zero("makes a table from sizes", "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range")
zero(
    "takes or gives text",
    "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer",
)  # fmt: skip
zero("reads a file", "ImageDecoder")

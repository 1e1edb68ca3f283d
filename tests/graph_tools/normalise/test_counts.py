"""Sizes that the number of elements decides."""

from __future__ import annotations

import onnx
import pytest

from onnx_attribution.graph_tools.ir.shapes import dims_of
from onnx_attribution.graph_tools.normalise.types import inferred
from tests.programs import parsed

CASES = [
    ("N, 6, 8", "n, c6, m, c4", ("N", 6, 2, 4)),
    ("N, 6, 8", "m, c6, c8", ("N", 6, 8)),
    ("N, T, 8", "n, t, c2, m", ("N", "T", 2, 4)),
    ("N, 6, 8", "m, c8", None),
    ("N, 6, 7", "n, c6, m, c2", None),
    ("N, T, 8", "n, m, c8", ("N", "T", 8)),
]


@pytest.mark.parametrize(("whole", "parts", "right"), CASES)
def test_one_size_that_inference_does_not_know_is_what_the_others_leave(
    whole: str, parts: str, right: tuple[int | str, ...] | None
) -> None:
    numbers = "".join(f"c{k} = Constant<value_ints = [{k}]>() " for k in (2, 4, 6, 8))
    text = (
        f"g (float[{whole}] x) => (float[?] z) {{ {numbers} m = Constant<value_ints = [-1]>() "
        "n = Shape<start = 0, end = 1>(x) t = Shape<start = 1, end = 2>(x) "
        f"sizes = Concat<axis = 0>({parts}) r = Reshape(x, sizes) y = Relu(r) z = Reshape(y, m) }}"
    )
    found = {v.name: dims_of(v) for v in inferred(parsed(text)).graph.value_info}
    if right is None:
        assert any(d is None or (isinstance(d, str) and d not in whole) for d in found["r"] or (None,))
    else:
        assert found["r"] == found["y"] == right


def test_what_inner_graphs_hold_stays() -> None:
    text = """g (float[N, 4] x, bool c) => (float[N, 4] z) {
        z = If(c) <then_branch = a () => (float[N, 4] p) { p = Relu(x) },
                   else_branch = b () => (float[N, 4] q) { q = Neg(x) }> }"""
    model = parsed(text)
    assert isinstance(inferred(model), onnx.ModelProto)

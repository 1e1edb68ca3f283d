"""What counts as the arithmetic of shapes, and that the command says why it does nothing."""

from __future__ import annotations

import shutil

import pytest

from tests.placement.__main__ import main
from tests.placement.place import shape_arithmetic
from tests.programs import parsed


def test_arithmetic_of_shapes_is_what_knows_no_more_of_tensors() -> None:
    graph = parsed("""net (float[N,3] x, int64[M] k) => (float[a,b] z, float[c] w, int64[M] m) <int64[1] one = {1}> {
  w = Expand(scale, sizes)
  sizes = Add(shape, one)
  shape = Shape(h)
  h = Relu(x)
  halved = Div(sizes, one)
  z = Expand(h, halved)
  m = Add(k, sizes)
  scale = Cast<to=1>(one)
}""").graph
    for node in graph.node:
        node.name = node.output[0]
    assert shape_arithmetic(graph) == {"w", "sizes", "shape", "halved"}


def test_without_a_compiler_the_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert main([]) == 0
    assert capsys.readouterr().out == "placement: skipped, gcc is not installed\n"

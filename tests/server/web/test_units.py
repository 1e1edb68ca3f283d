"""Units over a data set: the samples to which each contributes most, its share, and its name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_attribution.client.niwt.unit_names import UnitName, UnitNames
from tests.server.cli.commands import explained
from tests.server.web.visitor import Visitor, command_of, visiting

WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)
X = np.array([[1, 1, 4], [2, -3, 2], [-1, -1, 8], [5, 0, -6]], np.float32)
CONTRIBUTIONS = np.maximum(X * WEIGHTS, 0)
"""Of each unit of `r` to y, the sum of them: what DeepLIFT must say with a baseline of 0."""
NAMES = UnitNames((UnitName("r", 1, "striped", 0.9, 0.4), UnitName("r", 2, "furry", 0.3, 0.4)))
ASKED = {"model": "m.onnx", "layer": "r", "method": "deeplift_rescale"}


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """Yields somebody who has opened the page of a small model, with a data set and names."""
    folder = tmp_path_factory.mktemp("units")
    text = "m (float[N,3] x) => (float[N,1] y) { h = Mul(x, w) r = Relu(h) y = ReduceSum(r, axes) }"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    model.graph.initializer.extend(
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(np.array([1]), "axes")]
    )
    onnx.save(model, folder / "m.onnx")
    data = folder / "set" / "data.npz"
    data.parent.mkdir()
    np.savez(data, x=X, labels=np.array([0, 1, 0, 1]))
    with visiting(folder / "m.onnx", NAMES, data) as one:
        yield one


def numbers(text: str, pattern: str) -> list[float]:
    """Returns the numbers that a pattern finds."""
    return [float(one.replace("−", "-")) for one in re.findall(pattern, text)]


@pytest.mark.parametrize("unit", range(3))
def test_examples_are_those_to_which_the_unit_contributes_most(visitor: Visitor, unit: int) -> None:
    text = visitor.get("/unit", **ASKED, unit=unit).text
    found = numbers(text, r"<small>([−0-9.e]+) to ")
    assert found == pytest.approx(sorted(CONTRIBUTIONS[:, unit], reverse=True))
    first = re.search(r"sample (\w+)<", text)
    assert first is not None
    assert int(first[1]) == CONTRIBUTIONS[:, unit].argmax()


def test_units_are_ranked_by_their_mean_size(visitor: Visitor) -> None:
    text = visitor.get("/units", **ASKED).text
    units = [int(one) for one in re.findall(r">unit (\d)</a></th>", text)]
    assert units == np.argsort(-CONTRIBUTIONS.mean(axis=0)).tolist()
    means = numbers(text, r"</a></th><td>\w*</td><td>([−0-9.e]+)<")
    assert means == pytest.approx(sorted(CONTRIBUTIONS.mean(axis=0), reverse=True), rel=1e-2)


def test_a_name_is_shown_and_one_that_means_nothing_is_said_to(visitor: Visitor) -> None:
    assert ">striped <small>score 0.9, by chance 0.4<" in visitor.get("/unit", **ASKED, unit=1).text
    assert "not better than by chance" in visitor.get("/unit", **ASKED, unit=2).text
    listed = visitor.get("/units", **ASKED).text
    assert "striped" in listed
    assert "furry" not in listed


def test_a_sample_of_the_data_set_is_explained_by_a_command_that_gives_the_same(visitor: Visitor) -> None:
    text = visitor.final(**ASKED, input="data", row=2)
    assert "/unit?" in text
    told = explained(*command_of(text)[1:])
    assert told["layers"]["r"]["sum"][0] == pytest.approx(CONTRIBUTIONS[2].sum())
    assert numbers(text, r"together contribute ([−0-9.e]+)<") == pytest.approx([CONTRIBUTIONS[2].sum()])


@pytest.mark.parametrize(
    ("path", "fields", "word"),
    [
        ("/unit", {"unit": "3"}, "no unit 3; they are 0 to 2"),
        ("/unit", {"unit": "-1"}, "no unit -1"),
        ("/units", {"layer": ""}, "choose a layer first"),
        ("/units", {"layer": "nowhere"}, "nowhere"),
        ("/unit", {"unit": "0", "target": "9"}, "What would work"),
    ],
)
def test_what_is_not_there_is_refused(visitor: Visitor, path: str, fields: dict[str, str], word: str) -> None:
    answer = visitor.get(path, **{**ASKED, **fields})
    assert answer.status == 400
    assert word in answer.text

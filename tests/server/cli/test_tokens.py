"""A token model on the command line: masks from files as targets, ends of names, tokens among the layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from onnx_attribution.server.cli.app import app

TOKENS = """(int64[N,3] ids, float[N,3] mask) => (float[N,2] prob)
    <float[5,2] table = {1,2,3,4,5,6,7,8,9,0}, int64[1] two = {2}, int64[1] one = {1}> {
        word = Gather(table, ids) u = Unsqueeze(mask, two) kept = Mul(word, u)
        scores = ReduceSum<keepdims = 0>(kept, one) big = ReduceMax(scores, one) low = Sub(scores, big)
        raised = Exp(low) total = ReduceSum(raised, one) prob = Div(raised, total)
    }"""
TABLE = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 0.0]).reshape(5, 2)


@pytest.fixture
def tokens(tmp_path: Path) -> list[str]:
    """Returns a file of a token model, and the options of its inputs: tokens 1, 2, 4, of which the last is masked."""
    file = tmp_path / "tokens.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> g {TOKENS}'), file)
    np.save(tmp_path / "ids.npy", np.array([[1, 2, 4]]))
    np.save(tmp_path / "kept.npy", np.array([[1, 1, 0]], np.float32))
    return [str(file), "--input", f"ids={tmp_path}/ids.npy", "--input", f"mask={tmp_path}/kept.npy"]


def explained(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["explain", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_logit_of_a_softmax_in_parts_is_a_sum_over_the_words(tokens: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    answer = explained(
        *tokens, "--method", "integrated-gradients", "--target", "1", "--logit", "--output", str(out)
    )
    assert answer["target"]["tensor"] == "scores"
    expected = np.zeros((1, 3, 2))
    expected[0, :2, 1] = TABLE[[1, 2], 1]
    np.testing.assert_allclose(np.load(out)["word"], expected, rtol=1e-5)  # of float32
    assert any("the input 'mask' is held" in w for w in answer["warnings"])


@pytest.mark.parametrize(("kind", "words"), [(bool, "mask of 1 of 2"), (float, "weights of 1 elements")])
def test_a_mask_and_weights_come_from_files(
    tokens: list[str], tmp_path: Path, kind: type, words: str
) -> None:
    np.save(tmp_path / "target.npy", np.array([0, 1]).astype(kind))
    answer = explained(*tokens, "--method", "gradient", "--target", f"scores:@{tmp_path}/target.npy")
    assert answer["target"]["index"] == [words]
    assert answer["target"]["value"] == pytest.approx([TABLE[[1, 2], 1].sum()])


def test_targets_of_one_sample_are_the_elements_of_a_region(tokens: list[str]) -> None:
    answer = explained(*tokens, "--method", "gradient", "--target", "kept:0,1", "--target", "kept:1,1")
    assert answer["target"]["value"] == pytest.approx([TABLE[[1, 2], 1].sum()])


def test_a_letter_is_no_target(tokens: list[str]) -> None:
    result = CliRunner().invoke(app, ["explain", *tokens, "--target", "b"])
    assert result.exit_code == 2
    assert "no tensor or node 'b'" in result.output


def test_tokens_and_their_embedding_are_layers(tokens: list[str]) -> None:
    result = CliRunner().invoke(app, ["layers", tokens[0], "--json"])
    found = {one["name"]: one for one in json.loads(result.stdout)["layers"]}
    assert list(found)[:3] == ["ids", "mask", "word"]
    assert (found["ids"]["dtype"], found["ids"]["operator"], found["word"]["cut"]) == ("int64", "input", True)

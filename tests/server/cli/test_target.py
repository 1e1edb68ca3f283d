"""What is explained, and from where: targets and baselines on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.inputs import read_baselines
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.target import parse_target
from onnx_attribution.values import Target, TensorInfo
from tests.server.cli.commands import explained, model, run

ROOT = Path(__file__).parents[2]
Data = tuple[NDArray[np.float32], NDArray[np.int64]]


TARGETS = [
    (["3"], Target(None, 3)),
    (["-1"], Target(None, -1)),
    (["2,5"], Target(None, (2, 5))),
    (["0:3,1"], Target(None, (slice(0, 3), 1))),
    ([":,1"], Target(None, (slice(None), 1))),
    (["0:6:2"], Target(None, slice(0, 6, 2))),
    (["conv2"], Target("conv2", None)),
    (["conv2:1,0:3,2"], Target("conv2", (1, slice(0, 3), 2))),
    (["output:0"], Target("output:0", None)),  # an output of that name
    (["output:0:3"], Target("output:0", 3)),
    (["495:"], Target("495", None)),
    (["495:3"], Target("495", 3)),
    (["other:0"], Target("other", 0)),
    (["3", "5"], Target(None, [3, 5])),
    (["logits:3", "logits:5"], Target("logits", [3, 5])),
    ([], Target()),
]


@pytest.mark.parametrize(("given", "target"), TARGETS)
def test_targets_have_these_forms(given: list[str], target: Target) -> None:
    assert parse_target(given, [], ["output:0", "495", "logits"]) == target


def test_minus_is_subtracted(digits_path: Path, image: Path) -> None:
    values = [
        np.array(
            explained(digits_path, "--input", image, "--method", "gradient", *options)["target"]["value"]
        )
        for options in (("--target", "3"), ("--target", "5"), ("--target", "3", "--minus", "5"))
    ]
    np.testing.assert_allclose(values[0] - values[1], values[2], rtol=1e-5)


def test_a_baseline_is_a_number_or_a_file(digits_path: Path, image: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", np.full((1, 1, 8, 8), 0.5, np.float32))
    options = (digits_path, "--input", image, "--method", "deeplift-rescale", "--baseline")
    found = [
        explained(*options, text)["target"]["baseline_value"]
        for text in ("0.5", "image=0.5", f"image={tmp_path}/half.npy", f"{tmp_path}/half.npy", "0")
    ]
    assert found[0] == found[1] == found[2] == found[3] != found[4]


def test_references_are_averaged_and_their_spread_is_told(
    digits_path: Path, image: Path, tmp_path: Path
) -> None:
    references = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    np.save(tmp_path / "several.npy", references)
    np.save(tmp_path / "own.npy", np.stack([references, references]))  # of two images
    options = (digits_path, "--input", image, "--method", "deeplift-rescale", "--target", "3")
    alone = []
    for k in range(3):
        np.save(tmp_path / "one.npy", references[k : k + 1])
        alone.append(explained(*options, "--baseline", f"{tmp_path}/one.npy")["layers"]["image"]["sum"])
    for file in ("several.npy", "own.npy"):
        found = explained(*options, "--references", f"image={tmp_path}/{file}")["layers"]["image"]
        np.testing.assert_allclose(found["sum"], np.mean(alone, axis=0), rtol=1e-5)
        assert found["spread"][0] > 0
    shown = run("explain", *options, "--references", f"{tmp_path}/several.npy")
    assert "spread" in shown.stdout
    shown = run("explain", *options, "--references", f"{tmp_path}/several.npy", "--baseline", "image=0")
    assert (shown.exit_code, "'image' has both --baseline and --references" in shown.stderr) == (2, True)


def test_a_baseline_alone_is_for_the_float_inputs_where_the_target_decides_on_the_sources(
    two: Path, tmp_path: Path
) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.full((1, 3), 2, np.float32))
    np.save(tmp_path / "half.npy", np.full((1, 3), 0.5, np.float32))
    options = (
        two, "--input", f"a={tmp_path}/a.npy", "--input", f"b={tmp_path}/b.npy", "--target", "sum:1",
        "--method", "integrated-gradients",
    )  # fmt: skip

    def at_baseline(*given: str) -> Any:
        return explained(*options, *given)["target"]["baseline_value"]

    assert at_baseline() == [0]
    assert at_baseline("--baseline", "0.5") == at_baseline("--baseline", f"{tmp_path}/half.npy") == [1]
    assert at_baseline("--baseline", "0.5", "--baseline", "b=3") == [3.5]
    assert at_baseline("--baseline", "b=3", "--baseline", "0.5") == [3.5]
    for given, said in (
        (["missing.npy"], "no file 'missing.npy'"),
        (["0", "1"], "all sources have one already"),
        (["a=0", "a=1"], "'a' has one already"),
    ):
        result = run("explain", *options, *(part for text in given for part in ("--baseline", text)))
        assert result.exit_code == 2
        assert said in result.stderr


def test_a_baseline_alone_is_never_dropped_at_an_output_with_more_sources(tmp_path: Path) -> None:
    text = "few (float[N,3] a, float[N,3] b) => (float[N,3] one, float[N,3] both)"
    path = model(tmp_path, text + " { one = Exp(a) both = Add(a, b) }")
    np.save(tmp_path / "x.npy", np.full((1, 3), 2, np.float32))
    options = (path, "--input", f"a={tmp_path}/x.npy", "--input", f"b={tmp_path}/x.npy", "--baseline", "0.5")
    assert explained(*options, "--target", "both:1")["target"]["baseline_value"] == [1]
    assert explained(*options, "--target", "one:1")["target"]["baseline_value"] == [
        pytest.approx(np.exp(0.5))
    ]


def test_names_of_baselines_are_passed_on_as_they_are() -> None:
    image = TensorInfo("image", "float32", ("N", 3), 0)
    words = TensorInfo("words", "int64", ("N", 3), 0)
    given = ["/conv/Conv=0.5", "relu=1", "image=2"]
    found = read_baselines(given, ("/conv/Conv",), [image], Picture())
    assert found == {"/conv/Conv": 0.5, "relu": 1, "image": 2}
    assert read_baselines(["1"], (), [image, words], Picture()) == {"image": 1}
    with pytest.raises(InvalidArgument, match="--source"):
        read_baselines(["1"], (), [words], Picture())


@pytest.mark.parametrize("name", ["relu1", "/relu1/Relu"])
def test_sources_and_their_baselines_go_by_any_name(name: str, digits_path: Path, image: Path) -> None:
    options = (digits_path, "--input", image, "--source", name, "--layer", "conv2", "--baseline")
    alone, named = explained(*options, "0.25"), explained(*options, f"{name}=0.25")
    assert alone["target"] == named["target"]
    assert not any("baseline" in warning for warning in named["warnings"])

"""Masks say where the reason lies, and maps that lie there pass; those of a model that is planted are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.client.audit.metrics import localisation
from onnx_attribution.client.audit.requirements import LOCATED
from tests.client.audit import planted
from tests.server.cli.commands import run

for needed in ("jinja2", "pyarrow", "scipy", "skimage"):
    pytest.importorskip(needed)
SAMPLES = 6
METHODS = "deeplift-rescale,layer-activation"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(planted.shortcut(), tmp_path / "planted.onnx")
    np.savez(
        tmp_path / "masked.npz", image=planted.corners(SAMPLES), masks=planted.corner_mask(SAMPLES)[:, 0]
    )
    np.savez(tmp_path / "plain.npz", image=planted.corners(SAMPLES))
    return tmp_path


def audited(folder: Path, data: str, *more: str | Path) -> dict[str, Any]:
    given: list[str | Path] = [
        "audit",
        folder / "planted.onnx",
        "--data",
        folder / data,
        "--methods",
        METHODS,
        "--anew",
    ]
    done = run(*given, "--out", folder / "out", *more)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    return found


def test_the_method_that_sees_the_corner_passes_and_the_one_that_shows_the_image_does_not(
    folder: Path,
) -> None:
    from pyarrow import parquet

    found = audited(folder, "masked.npz", "--checks", "localisation")
    methods = found["methods"]
    table = parquet.read_table(folder / "out" / "attributions.parquet").to_pylist()
    rows = [row for row in table if row["layer"] == "image"]
    for name, one in methods.items():
        assert set(LOCATED) <= one["metrics"].keys()
        maps = np.array([np.reshape(row["values"], row["shape"]) for row in rows if row["method"] == name])
        own = np.abs(maps.astype(np.float64))
        inside = own[:, :, : planted.CORNER, : planted.CORNER].sum(axis=(1, 2, 3)) / own.sum(axis=(1, 2, 3))
        assert one["metrics"]["relevance_mass_accuracy"]["value"] == pytest.approx(inside.mean(), rel=1e-5)
    share = planted.CORNER**2 / planted.SIDE**2
    assert found["localisation"]["share"] == pytest.approx(share)
    assert methods["deeplift_rescale"]["metrics"]["pointing_game"]["value"] == 1
    assert methods["deeplift_rescale"]["verdict"]["word"] == "passes"
    assert methods["layer_activation"]["metrics"]["pointing_game"]["value"] == 0
    assert methods["layer_activation"]["verdict"]["word"] != "passes"
    chance = methods["deeplift_rescale"]["metrics"]["relevance_mass_accuracy"]["random"]
    assert chance["value"] == pytest.approx(share, abs=0.1)
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "pointing game" in page
    assert page.count('alt="mask of ') == SAMPLES
    assert "with masks, which hold 6.25 %" in page


def test_masks_of_a_file_of_positions_or_of_names_are_those_beside_the_samples(folder: Path) -> None:
    beside = audited(folder, "masked.npz", "--checks", "localisation")["methods"]
    masks = planted.corner_mask(SAMPLES)
    np.save(folder / "whole.npy", masks.astype(np.float32))
    np.savez(folder / "named.npz", **{str(k): masks[k, 0].astype(np.int64) for k in range(SAMPLES)})
    for file in ("whole.npy", "named.npz", "masked.npz"):
        own = audited(folder, "plain.npz", "--checks", "localisation", "--masks", folder / file)["methods"]
        assert {name: one["metrics"] for name, one in own.items()} == {
            name: one["metrics"] for name, one in beside.items()
        }


def test_masks_follow_the_rows_and_without_any_the_check_is_none_of_all(folder: Path) -> None:
    some = audited(folder, "masked.npz", "--rows", "2:5", "--checks", "localisation")
    np.save(folder / "some.npy", planted.corner_mask(SAMPLES)[:, 0])
    other = audited(
        folder, "plain.npz", "--rows", "2:5", "--checks", "localisation", "--masks", folder / "some.npy"
    )
    assert some["methods"]["deeplift_rescale"]["metrics"] == other["methods"]["deeplift_rescale"]["metrics"]
    assert some["localisation"]["samples"] == 3
    asked = audited(folder, "plain.npz", "--rows", "0:1", "--checks", "localisation")
    assert "--masks" in asked["skipped"]["localisation"]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((SAMPLES, 5, 5)), "the mask of '0' has the shape [5, 5]; it is [1, 12, 12]"),
        (np.zeros((3, planted.SIDE, planted.SIDE)), "3 masks for 6 samples"),
        (np.full((SAMPLES, planted.SIDE, planted.SIDE), 0.5), "other things than 0 and 1"),
        (np.array(1), "one number"),
    ],
)
def test_masks_that_fit_no_sample_are_refused_before_anything_is_explained(
    folder: Path, array: Any, words: str
) -> None:
    np.save(folder / "masks.npy", array)
    done = run(
        "audit", folder / "planted.onnx", "--data", folder / "plain.npz", "--methods", METHODS, "--masks",
        folder / "masks.npy", "--out", folder / "out",
    )  # fmt: skip
    assert done.exit_code == 2
    assert words in done.stderr
    assert not list((folder / "out").glob("state/item-*"))


def test_a_map_without_channels_is_judged_where_channels_are_summed(folder: Path) -> None:
    """Masks of positions of an image of three channels: relevance of a pixel is the sum over them."""
    onnx.save(planted.one_channel(), folder / "planted.onnx")
    images = planted.colours(SAMPLES)
    masks = np.zeros((SAMPLES, planted.SIDE, planted.SIDE), bool)
    masks[:, :6] = True
    np.savez(folder / "colours.npz", image=images, masks=masks)
    found = audited(folder, "colours.npz", "--methods", "gradient", "--checks", "localisation")
    from pyarrow import parquet

    rows = parquet.read_table(folder / "out" / "attributions.parquet").to_pylist()
    maps = np.array(
        [np.reshape(row["values"], row["shape"]) for row in rows if row["layer"] == "image"], np.float64
    )
    expected = localisation.relevance_rank_accuracy(maps.sum(axis=1), masks).mean()
    own = found["methods"]["gradient"]["metrics"]["relevance_rank_accuracy"]["value"]
    assert own == pytest.approx(expected, rel=1e-6)

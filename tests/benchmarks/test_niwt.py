"""The experiments of NIWT: their classes, and that the pages say what the numbers beside them say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.niwt import composites, fashion
from benchmarks.niwt.report import page
from onnx_attribution.client.niwt.classes import read_classes

RESULTS = Path(fashion.__file__).parent / "results"


@pytest.mark.parametrize("seed", range(5))
def test_every_attribute_of_an_unseen_composite_is_seen_with_those_of_other_kinds(seed: int) -> None:
    seen, unseen = composites.split(seed)
    assert (len(seen), len(unseen)) == (54, 18)
    assert sorted(seen + unseen) == list(range(72))
    described = composites.descriptions()
    assert (described.sum(axis=1) == 3).all()
    pairs = described[seen].T @ described[seen]
    for one in described[unseen]:
        assert (pairs[np.ix_(one > 0, one > 0)] > 0).all()


def test_images_are_those_of_their_seed() -> None:
    classes = np.array([0, 30, 71])
    one, other = composites.drawn(classes, 3), composites.drawn(classes, 3)
    assert (one == other).all()
    assert one.shape == (3, 3, 28, 28)
    assert one.dtype == np.float32
    assert (composites.drawn(classes, 4) != one).any()


def test_each_garment_is_held_back_twice_and_no_two_are_described_alike() -> None:
    assert len(set(fashion.SPLITS)) == 10
    assert np.bincount(np.ravel(fashion.SPLITS)).tolist() == [2] * 10
    table = read_classes(fashion.DESCRIPTIONS)
    assert table.seen == tuple(range(10))
    assert len(table.attributes) == 12
    assert len(np.unique(table.values, axis=0)) == 10


def test_without_the_data_the_way_to_it_is_said(tmp_path: Path) -> None:
    if Path("/", fashion.FILES).is_dir():
        pytest.skip("the package is installed")
    with pytest.raises(SystemExit, match="apt-get download dataset-fashion-mnist && dpkg -x"):
        fashion.folder(tmp_path)


@pytest.mark.parametrize("data", ["composites", "fashion"])
def test_the_page_is_that_of_the_numbers(data: str) -> None:
    found = json.loads((RESULTS / f"{data}.json").read_text())
    assert (RESULTS / f"{data}.md").read_text() == page(data, found)

"""What the tests of batches share."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from onnx_attribution.server.scale import Folder, run_batch
from onnx_attribution.server.scale.local import Local
from tests.server.scale.places import JOB, PLAN, SHARDS, Doubling, opened


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    found = tmp_path / "notes"
    found.mkdir()
    return found


@pytest.fixture
def plain(tmp_path: Path, notes: Path) -> Path:
    """Returns the folder of a batch that ran in this process without any trouble."""
    pytest.importorskip("pyarrow.parquet")
    folder = Folder(tmp_path / "plain", PLAN)
    run_batch(Local(partial(opened, Doubling(notes)), 1), JOB, folder, SHARDS)
    return folder.place

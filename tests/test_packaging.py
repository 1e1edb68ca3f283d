"""What is installed is what the tree holds, and the bare install is the thin client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from onnx_attribution.graph_tools.read.load import MAX_IR, MAX_OPSET

ROOT = Path(__file__).parents[1]
FOLDERS = ("client", "graph_tools", "proto", "server")
SHIPPED = (".py", ".pyi", ".proto", ".typed", ".json", ".css", ".js", ".j2")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Neither the tree nor the caller's PYTHONPATH may leak into an environment under test.
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env={**clean, **environment}, cwd="/")


def shipped_files() -> set[str]:
    """Returns every file of the import package that users need, by its path below src/."""
    package = ROOT / "src" / "onnx_attribution"
    roots = [(package, "onnx_attribution")] + [(ROOT / name, f"onnx_attribution/{name}") for name in FOLDERS]
    return {
        f"{name}/{file.relative_to(root).as_posix()}"
        for root, name in roots
        for file in ([*root.glob("*"), *root.glob("methods/*")] if root == package else root.rglob("*"))
        if file.suffix in SHIPPED and file.is_file()
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a wheel, built from a copy so that no build output lands in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", *FOLDERS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    result = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, copy)
    assert result.returncode == 0, result.stderr
    return next(folder.glob("*.whl"))


def test_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    latest = re.search(r"^## \[(.+?)\](.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    assert latest is not None
    assert latest[1] == version or (latest[1] == "Unreleased" and f"released as {version}." in latest[2])


def test_the_readme_states_the_range_of_runtimes_and_of_models() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ranges = {
        extra: re.findall(r"^onnxruntime\S*>=1\.(\d+),<1\.(\d+)$", "\n".join(extras[extra]), re.MULTILINE)
        for extra in ("server", "gpu")
    }
    assert ranges["server"] == ranges["gpu"]
    ((first, end),) = ranges["server"]
    readme = (ROOT / "README.md").read_text()
    assert f"; onnxruntime 1.{first} or 1.{int(end) - 1};" in readme
    assert f"up to opset {MAX_OPSET} and IR version {MAX_IR}." in readme


@pytest.mark.parametrize("name", FOLDERS)
def test_links_lead_to_the_folders(name: str) -> None:
    link = ROOT / "src" / "onnx_attribution" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{name}"
    assert link.is_dir()


def test_importing_the_client_loads_neither_onnx_nor_onnxruntime() -> None:
    code = "import sys, onnx_attribution.client; print({'onnx', 'onnxruntime'} & set(sys.modules))"
    result = run(sys.executable, "-c", code, PYTHONPATH=str(ROOT / "src"))
    assert (result.returncode, result.stdout.strip()) == (0, "set()"), result.stderr


def test_wheel_holds_every_file_of_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == shipped_files()


def test_client_works_in_a_bare_environment(wheel: Path, tmp_path: Path) -> None:
    """Installs the wheel with the bare dependencies only: slow, and the only way to know."""
    venv.create(tmp_path / "bare")
    python = tmp_path / "bare" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    installed = run(*pip, "install", "-q", "--disable-pip-version-check", wheel)
    assert installed.returncode == 0, installed.stderr

    code = (
        "import importlib.util, onnx_attribution.client\n"
        "print([name for name in ('onnx', 'onnxruntime') if importlib.util.find_spec(name)])"
    )
    imported = run(python, "-W", "error", "-c", code)
    assert (imported.returncode, imported.stdout.strip()) == (0, "[]"), imported.stderr

    command = run(tmp_path / "bare" / "bin" / "onnx-attribution", "--help")
    assert command.returncode == 2
    assert "onnx-attribution[server]" in command.stderr
    assert "Traceback" not in command.stderr

"""deploy/locks names one version with hashes of everything that pyproject.toml asks for: what images install."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.image.dockerfile import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {"cpu": "server", "gpu": "gpu"}
REMEDY = "run: make locks"


def locked(name: str) -> dict[str, str]:
    """The versions of a lock."""
    text = (ROOT / "deploy" / "locks" / f"{name}.txt").read_text()
    pins = re.findall(
        r"^([\w.-]+)==([^\s;]+)(?: ;[^\\\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.M
    )
    assert len(pins) == len(re.findall(r"^\w", text, re.M)), "each line has a version and hashes"
    return {canonicalize_name(package): version for package, version, _ in pins}


def asked(extra: str) -> list[Requirement]:
    """What the bare install and an extra ask for; extras of ours are opened."""
    found = []
    for text in PROJECT["project"]["optional-dependencies"].get(extra, []):
        one = Requirement(text)
        if one.name == PROJECT["project"]["name"]:
            found += [more for name in one.extras for more in asked(name)]
        else:
            found.append(one)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_locked_within_its_range(lock: str) -> None:
    pins = locked(lock)
    wanted = [Requirement(text) for text in PROJECT["project"]["dependencies"]] + asked(LOCKS[lock])
    assert len(wanted) > 10
    for one in wanted:
        version = pins.get(canonicalize_name(one.name))
        assert version is not None, f"{one.name} is not in {lock}.txt; {REMEDY}"
        assert one.specifier.contains(version), f"{one.name} {version} is outside {one.specifier}; {REMEDY}"


def test_images_hold_one_runtime_each() -> None:
    names = {lock: {name for name in locked(lock) if name.startswith("onnxruntime")} for lock in LOCKS}
    assert names == {"cpu": {"onnxruntime"}, "gpu": {"onnxruntime-gpu"}}


def test_the_build_backend_is_locked() -> None:
    (backend,) = map(Requirement, PROJECT["build-system"]["requires"])
    assert backend.specifier.contains(locked("build")[backend.name]), REMEDY


def test_the_newest_runtime_of_the_range_is_what_images_hold() -> None:
    (runtime,) = [one for one in asked("server") if one.name == "onnxruntime"]
    bounds = {one.operator: one.version for one in runtime.specifier}
    end = [int(part) for part in bounds["<"].split(".")]
    assert [int(part) for part in locked("cpu")["onnxruntime"].split(".")[:2]] == [end[0], end[1] - 1], REMEDY


def test_the_oldest_versions_of_all_that_users_install_are_tested() -> None:
    """`.ci/oldest` takes them from the extras that `dev` names; `make test` takes the newest."""
    script = (ROOT / ".ci" / "oldest").read_text()
    assert "--resolution lowest-direct" in script
    (pattern,) = re.findall(r"sed -n 's/(\S+ +\S+)/--extra", script)
    (named,) = re.findall(
        pattern.replace("\\(", "(").replace("\\)", ")"), (ROOT / "pyproject.toml").read_text(), re.M
    )
    extras = PROJECT["project"]["optional-dependencies"].keys()
    assert {*named.split(",")} == extras - {
        "common",
        "gpu",
        "dev",
        "peers",
        "ray",
    }  # of ray one minor version is taken

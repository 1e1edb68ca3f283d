"""The steps of a Dockerfile's stages, taken without a container engine: COPY copies, RUN runs in a shell.

Each stage has a folder in place of its root. RUN's working directory lies in it, and $PREFIX outside of all, so that
what is installed keeps its path, as it does in an image.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.image.dockerfile import Stage

INERT = ("LABEL", "EXPOSE", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD", "ENV")
"""What changes no file; the stage knows of them."""


class Steps:
    """Builds stages below a folder."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        context: Path,
        place: Path,
        python: Path,
        say: Callable[[str], None],
    ) -> None:
        self._stages = stages
        self._context = context
        self._place = place
        self._say = say
        self._roots: dict[str, Path] = {}
        # The base's Python, in which steps may install: a virtual environment of its own.
        self._bin = place / "base" / "bin"
        subprocess.run([python, "-m", "venv", self._bin.parent], check=True)

    def build(self, name: str) -> Path:
        """The folder of a stage, built with those it copies from."""
        if name in self._roots:
            return self._roots[name]
        stage = self._stages[name]
        root = self._place / name
        root.mkdir()
        self._roots[name] = root
        working = root
        for instruction, value in stage.steps:
            if instruction == "WORKDIR":
                working = root / value.lstrip("/")
                working.mkdir(parents=True, exist_ok=True)
            elif instruction == "COPY":
                self._copy(value, root, working)
            elif instruction == "RUN":
                self._run(value, stage, working)
            elif instruction not in INERT:
                raise ValueError(f"nobody has said what {instruction} does")
        return root

    def environment(self, stage: Stage) -> dict[str, str]:
        """The variables of a stage, without those of the machine."""
        path = f"{self._bin}:/usr/local/bin:/usr/bin:/bin"
        found = {"PATH": path, "LANG": "C.UTF-8", **pip_settings(), **stage.arguments, **stage.variables}
        return found | {"PATH": found["PATH"].replace("${PATH}", path)}

    def _copy(self, value: str, root: Path, working: Path) -> None:
        words = shlex.split(value)
        source = self._context
        if words[0].startswith("--from="):
            source = self.build(words.pop(0).removeprefix("--from="))
        *given, target = words
        for word in given:
            if word == target and Path(word).is_relative_to(self._place):
                continue  # the prefix is one and the same in all stages
            found = source / word.lstrip("/")
            to = root / target.lstrip("/") if target.startswith("/") else working / target
            if found.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(found, to, symlinks=True, ignore=ignored, dirs_exist_ok=True)
            else:
                if target.endswith("/"):
                    to.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, to)

    def _run(self, command: str, stage: Stage, working: Path) -> None:
        began = time.monotonic()
        result = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=working,
            env={**self.environment(stage), "HOME": str(self._place)},
            capture_output=True,
            text=True,
            timeout=1200,
        )
        if result.returncode:
            raise SystemExit(f"RUN {command}\n{result.stdout}{result.stderr}")
        self._say(f"{stage.name}: {command.split('&&')[0].strip()} ({time.monotonic() - began:.0f} s)")


def pip_settings() -> dict[str, str]:
    """How this machine reaches the index; a container engine has that from its own configuration."""
    wanted = (
        "PIP_INDEX_URL",
        "PIP_CERT",
        "PIP_DEFAULT_TIMEOUT",
        "SSL_CERT_FILE",
        "HTTPS_PROXY",
        "https_proxy",
    )
    return {name: os.environ[name] for name in wanted if name in os.environ}

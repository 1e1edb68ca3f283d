"""deploy/Dockerfile as stages: what each starts from, and its instructions with their arguments filled in."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Dockerfile"
FILLED = ("ARG", "ENV", "LABEL", "WORKDIR", "USER", "COPY")
"""Instructions in which the builder fills in arguments; in RUN the shell does."""


@dataclass
class Stage:
    """Instructions between one FROM and the next, and what ENV and ARG say at the end."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def values(self, instruction: str) -> list[str]:
        """What stands behind an instruction, each time it comes."""
        return [value for name, value in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        """What holds of an instruction whose last one counts."""
        return self.values(instruction)[-1]

    def words(self, instruction: str) -> list[str]:
        """The JSON list of an instruction in exec form; options before it are left out."""
        _, bracket, rest = self.last(instruction).partition("[")
        found: list[str] = json.loads(bracket + rest)
        return found


def stages(given: Mapping[str, str] | None = None, file: Path = FILE) -> dict[str, Stage]:
    """The stages by name; `given` are build arguments."""
    arguments: dict[str, str] = {}  # those before the first FROM
    found: dict[str, Stage] = {}
    now: Stage | None = None
    parser = DockerfileParser(fileobj=io.BytesIO(file.read_bytes()))
    step: dict[str, Any]
    for step in parser.structure:
        name, value = step["instruction"], step["value"]
        if name == "COMMENT":
            continue
        known = arguments if now is None else {**now.arguments, **now.variables}
        if name == "FROM":
            base, _, called = _filled(value, arguments).partition(" AS ")
            now = found[called] = Stage(called, base)
            if base in found:
                now.variables.update(found[base].variables)
            continue
        if name == "ARG":
            key, _, default = value.partition("=")
            place = arguments if now is None else now.arguments
            place[key] = (given or {}).get(key, _filled(default, known))
            continue
        if now is None:
            raise ValueError(f"{name} stands before the first FROM")
        if name in FILLED:
            value = _filled(value, known)
        if name == "ENV":
            now.variables.update(pairs(value))
        now.steps.append((name, value))
    return found


def pairs(value: str) -> dict[str, str]:
    """What ENV or LABEL says: KEY=VALUE, several."""
    return dict(word.split("=", 1) for word in shlex.split(value))


def _filled(text: str, known: Mapping[str, str]) -> str:
    """The text with $NAME and ${NAME} filled in; a name that nobody gave, such as the base's PATH, stays."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda at: known.get(at[1] or at[2], at[0]), text)

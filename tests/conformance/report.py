"""What was found, case by case, the line that sums it up, and the comparison with what passed before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PASSED = Path(__file__).parent / "passed.json"
MODEL_VERDICTS = {"refused": "refused", "fail": "wrong"}
PARTS = ("schema", "own", "untagged", "twin", "double", "model")


@dataclass(frozen=True)
class Outcome:
    """One case: `pass` or `fail`; a model may also be `refused` by name, with the reason."""

    id: str
    operator: str
    part: str
    verdict: str
    detail: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """All outcomes, and words about what was not run."""

    outcomes: list[Outcome] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def of(self, *parts: str) -> list[Outcome]:
        """The outcomes of these parts."""
        return [o for o in self.outcomes if o.part in parts]

    def operators(self) -> tuple[int, int]:
        """How many tagged operators pass every case that counts, and how many there are."""
        found = self.of("schema", "own")
        names = {o.operator for o in found}
        return len(names - {o.operator for o in found if o.verdict == "fail"}), len(names)

    def line(self) -> str:
        """`operators 120/120   cases 614/614   ...`"""
        right, operators = self.operators()
        parts = [f"operators {right}/{operators}", f"cases {_ratio(self.of('schema'))}"]
        parts.append(f"untagged {_ratio(self.of('untagged'))}")
        parts += [f"{part}s {_ratio(self.of(part))}" for part in ("twin", "double") if self.of(part)]
        models = self.of("model")
        if models:
            text = f"models {len(models)}: {sum(o.verdict == 'pass' for o in models)} right"
            for verdict, words in MODEL_VERDICTS.items():
                names = [o.id.removeprefix("model/") for o in models if o.verdict == verdict]
                text += f", {len(names)} {words} ({', '.join(names)})" if names else ""
            parts.append(text)
        return "   ".join(parts)


def _ratio(outcomes: Sequence[Outcome]) -> str:
    return f"{sum(o.verdict == 'pass' for o in outcomes)}/{len(outcomes)}"


def passing(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    """The ids of what passes, by part."""
    found = list(outcomes)
    return {part: sorted(o.id for o in found if o.part == part and o.verdict == "pass") for part in PARTS}


def lost(report: Report, path: Path = PASSED) -> list[str]:
    """What passed before, was run, and does not pass now."""
    before = {(part, name) for part, names in json.loads(path.read_text()).items() for name in names}
    now = {(o.part, o.id): o.verdict for o in report.outcomes}
    return sorted(name for part, name in before if now.get((part, name), "pass") != "pass")


def update(report: Report, path: Path = PASSED) -> None:
    """Rewrites the file of what passes; parts that were not run stay."""
    before = json.loads(path.read_text()) if path.exists() else {}
    found = passing(report.outcomes)
    run = {o.part for o in report.outcomes}
    kept = {part: found[part] if part in run else before.get(part, []) for part in PARTS}
    path.write_text(json.dumps(kept, indent=0) + "\n")

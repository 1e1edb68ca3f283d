"""What a run has compared, what was refused, and what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx

from tests.fuzz.generate import Case

REFUSED, REFUSED_OF_A_THEME, KINKS, UNRUNNABLE = 0.05, 0.2, 0.15, 0.05
"""The shares of questions that may be refused (in all, and of one theme), of numbers that may lie at kinks, and of
cases that onnxruntime may not run: more of them, and a run without a fault says little."""


@dataclass(frozen=True)
class Fault:
    """A number that is wrong, or something that broke. `kind` says which check failed."""

    kind: str
    ask: str
    words: str


@dataclass
class Tally:
    """What was compared: answers, numbers, and what could not be because of a kink or a refusal."""

    cases: int = 0
    unrunnable: int = 0
    answers: int = 0
    numbers: int = 0
    kinks: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    shown: dict[str, str] = field(default_factory=dict)
    faults: list[tuple[Case, Fault]] = field(default_factory=list)

    def refuse(self, case: Case, words: str) -> None:
        """Counts a refusal, and remembers the first case of each."""
        self.refused[case.theme] += 1
        self.reasons[words] += 1
        self.shown.setdefault(words, case.label)

    def doubts(self) -> list[str]:
        """Why a run without a fault would prove little."""
        found = []
        asked, refused = self.asked.total(), self.refused.total()
        if refused > REFUSED * asked:
            found.append(f"{refused} of {asked} questions were refused: {self.reasons.most_common(5)}")
        for theme, count in self.asked.items():
            if self.refused[theme] > REFUSED_OF_A_THEME * count:
                found.append(f"{self.refused[theme]} of {count} questions of {theme} were refused")
        if self.kinks > KINKS * (self.kinks + self.numbers):
            found.append(f"{self.kinks} numbers at kinks, {self.numbers} compared")
        if self.unrunnable > UNRUNNABLE * (self.cases + self.unrunnable):
            found.append(f"{self.unrunnable} cases not runnable, {self.cases} were")
        return found

    def lines(self) -> list[str]:
        """The run in words: refusals by theme and reason, faults by theme and kind with the cases that show them."""
        found = [
            f"{self.cases} cases ({self.unrunnable} not runnable), {self.answers} answers, {self.numbers} numbers, "
            f"{self.kinks} at kinks, {self.refused.total()} of {self.asked.total()} questions refused"
        ]
        found += [f"  {theme}: {n} asked, {self.refused[theme]} refused" for theme, n in self.asked.items()]
        for words, count in self.reasons.most_common():
            found.append(f"  {count} refused, {self.shown[words]} first, {words}")
        kinds: dict[tuple[str, str], list[str]] = {}
        for case, fault in self.faults:
            kinds.setdefault((case.theme, fault.kind), []).append(case.label)
        for (theme, kind), labels in sorted(kinds.items()):
            found.append(
                f"  FAULT {theme}: {kind}, {len(labels)} in {' '.join([*dict.fromkeys(labels)][:5])}"
            )
        return found


def described(case: Case, faults: list[Fault]) -> str:
    """A failing case in words: what is wrong, the model, the samples, and how to see it again."""
    lines = [f"--- {case.label}, {case.theme}: python -m tests.fuzz --case {case.label}"]
    lines += [f"{fault.kind}: {fault.ask}: {fault.words}" for fault in faults]
    lines.append(onnx.printer.to_text(case.model))
    for k, row in enumerate(case.rows):
        for name, array in row.items():
            lines.append(f"sample {k}, {name}: {np.array2string(array, precision=17, separator=', ')}")
    axes = {x.name: x.axis for x in case.inputs}
    lines.append(f"axes {axes}, stated {dict(case.stated)}; target {case.target}{list(case.index)}")
    return "\n".join(lines)

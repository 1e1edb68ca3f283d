"""Where onnxruntime spends the time of a network's gradient request, by operator, beside its forward pass."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort

from benchmarks.bench import Bench
from benchmarks.timing import duration

REQUESTS = 3
SHOWN = 15


class _Profiled(ort.InferenceSession):
    """A session that keeps a profile and counts its runs."""

    made: list[_Profiled] = []  # noqa: RUF012  # of the one call that is profiled
    folder = Path()

    def __init__(
        self, model: Any, options: ort.SessionOptions | None = None, *rest: Any, **more: Any
    ) -> None:
        options = options or ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(self.folder / f"profile{len(self.made)}")
        super().__init__(model, options, *rest, **more)
        self.runs = 0
        self.made.append(self)

    def run(self, *given: Any, **more: Any) -> Any:
        self.runs += 1
        return super().run(*given, **more)

    def run_with_iobinding(self, *given: Any, **more: Any) -> Any:
        self.runs += 1
        return super().run_with_iobinding(*given, **more)


@contextmanager
def _profiled(folder: Path) -> Iterator[list[_Profiled]]:
    """Every session that is made meanwhile."""
    plain = ort.InferenceSession
    _Profiled.made, _Profiled.folder = [], folder
    ort.InferenceSession = _Profiled
    try:
        yield _Profiled.made
    finally:
        ort.InferenceSession = plain


def profile(bench: Bench, name: str) -> str:
    """A table: the share of each operator in the gradient request, and the same of the forward pass."""
    ready = bench.network(name)
    ours, spent, runs = Counter[str](), 0.0, 0
    with _profiled(bench.folder) as sessions:
        inputs = ready.inputs()
        ready.forward(inputs)
        forward = sessions[0]
        for _ in range(REQUESTS):
            ready.forward(inputs)
        alone, before = _operators(forward, REQUESTS)
        with bench.asking(ready.file) as ask:
            ask(inputs, "gradient")
            counts = [session.runs for session in sessions]
            for _ in range(REQUESTS):
                ask(inputs, "gradient")
            for session, count in zip(sessions, counts, strict=True):
                if session.runs > count:
                    operators, seconds = _operators(session, session.runs - count)
                    ours += operators
                    spent += seconds
                    runs += session.runs - count
    words = (
        f"{ready.name} ({ready.size.batch}): a request makes {runs / REQUESTS:g} runs in {duration(spent)}, the "
        f"forward pass takes {duration(before)}; profiling included. Operators in loops count with the loop, too."
    )
    return "\n".join([words, "", *_table(ours, spent, alone)])


def _table(ours: Counter[str], spent: float, alone: Counter[str]) -> Iterator[str]:
    yield "| operator | ms | share | ms in the forward pass |"
    yield "|---|---|---|---|"
    for name, each in ours.most_common(SHOWN):
        milliseconds, before = each / 1e3 / REQUESTS, alone[name] / 1e3 / REQUESTS
        yield f"| {name} | {milliseconds:.2f} | {milliseconds / 1e3 / spent:.1%} | {before:.2f} |"


def _operators(session: _Profiled, runs: int) -> tuple[Counter[str], float]:
    """Of the last runs of a session: microseconds of each operator, and seconds a request in all."""
    events = json.loads(Path(session.end_profiling()).read_text())
    last = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])[-runs:]
    found: Counter[str] = Counter()
    for event in events:
        kernel = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        if kernel and event["ts"] >= last[0]["ts"]:
            found[event["args"]["op_name"]] += event["dur"]
    return found, sum(e["dur"] for e in last) / 1e6 / REQUESTS

"""How far a command is, on a terminal: a bar on stderr, which goes when the command ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Report = Callable[[int, int, str], None]


@contextlib.contextmanager
def progress(words: str = "") -> Iterator[Report]:
    """What is told how much is done, of how much, and what is next (default: the words)."""
    if not sys.stderr.isatty():
        yield lambda done, planned, now: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=None)

        def report(done: int, planned: int, now: str) -> None:
            bar.update(task, completed=done, total=planned, description=now or words)

        yield report

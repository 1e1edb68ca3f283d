"""Rows in as many runs as the memory wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from onnx_attribution.errors import Overloaded

Row = TypeVar("Row")
Found = TypeVar("Found")


@dataclass
class Fitting:
    """How many rows a run may have: `limit` at first, and half of that whenever memory runs out."""

    limit: int

    def runs(
        self, rows: Sequence[Row], run: Callable[[Sequence[Row]], Found]
    ) -> Iterator[tuple[Sequence[Row], Found]]:
        """The rows of each run, and what it found.

        Raises:
            Overloaded: memory runs out for a single row.
        """
        start = 0
        while start < len(rows):
            part = rows[start : start + self.limit]
            try:
                found = run(part)
            except Overloaded:
                if self.limit == 1:
                    raise
                self.limit = max(self.limit // 2, 1)
                continue
            start += len(part)
            yield part, found

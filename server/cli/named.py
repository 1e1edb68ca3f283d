"""Names of units that a command is given for its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnx_attribution.client.niwt.unit_names import UnitNames, read_names
from onnx_attribution.server.cli.asker import Asker
from onnx_attribution.server.cli.status import say


def names_of(file: Path | None, tell: Callable[[str], None] = say) -> Callable[[Asker | None], UnitNames]:
    """The names of a file, for a model that is asked later (None: one of several); where they are those of another one,
    `tell` is told.

    Raises:
        InvalidArgument: the file is no table of names.
    """
    read = UnitNames() if file is None else read_names(file)

    def fitting(asker: Asker | None) -> UnitNames:
        digest = "" if asker is None else asker.info().digest
        if asker and read.strange(digest) and (words := read.strange(digest, asker.origins())):
            tell(words)
        return read

    return fitting

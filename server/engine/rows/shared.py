"""Programs of several targets: what does not depend on the target runs once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnx_attribution.graph_tools.programs.halves import before_target
from onnx_attribution.graph_tools.programs.signature import Program
from onnx_attribution.server.engine.backend import Held, Session
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.samples import WEIGHT
from onnx_attribution.values import Array


@dataclass(frozen=True, eq=False)
class Shared:
    """A program in two: what comes before the target's weight, and what is done for each target."""

    before: Session
    behind: Session

    def run(self, feeds: Mapping[str, Array | Held], weights: Sequence[Array]) -> list[dict[str, Array]]:
        """The outputs of the program for each of the weights."""
        keep = [name for name in self.before.outputs if name in self.behind.inputs]
        given = {name: value for name, value in feeds.items() if name != WEIGHT}
        found, kept = self.before.run_keeping(given, keep)
        return [
            {**found, **self.behind.run_keeping({**given, **kept, WEIGHT: weight}, ())[0]}
            for weight in weights
        ]


def shared(model: LoadedModel, key: tuple[object, ...], build: Callable[[], Program]) -> Shared | None:
    """The sessions of the program with this key in two; None where it cannot be divided."""
    found = model.in_two(("targets", *key), ("before", "behind"), lambda: before_target(build()))
    return None if found is None else Shared(*found)


def of_one_tensor(asked: Sequence[Resolved]) -> list[list[int]]:
    """Which targets are elements of one tensor, so that they have a program in common."""
    found: dict[object, list[int]] = {}
    for k, one in enumerate(asked):
        found.setdefault(one.choice, []).append(k)
    return list(found.values())

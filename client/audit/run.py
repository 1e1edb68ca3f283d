"""An audit as steps, each of which is done once: attributions of each sample, then the checks that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any

from onnx_attribution.client.audit import samples
from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.client.audit.questions import Questions
from onnx_attribution.client.audit.state import State
from onnx_attribution.client.audit.steps import Aim, Check, Model, Settings, Step
from onnx_attribution.errors import AttributionError
from onnx_attribution.values import Array

__all__ = ["Aim", "Audit", "Check", "Model", "Settings", "Step", "item_name"]


class Audit(Questions):
    """An audit of one model over one data set. `run` does what is not done yet; then `state` has all of it.

    Raises:
        InvalidArgument: no sample can be explained.
    """

    def __init__(
        self, model: Model, data: Dataset, settings: Settings, state: State, checks: Sequence[Check] = ()
    ) -> None:
        super().__init__(model, data, settings)
        self.state, self.checks = state, checks
        self.skipped: dict[str, str] = {}
        self._kept: dict[int, dict[str, Any]] = {}

    def run(self, progress: Callable[[int, int, str], None] = lambda done, planned, words: None) -> None:
        """Does every step that is not done. `progress` is told how many are, of about how many, and which is next.

        A check that cannot be done with this model is `skipped`, with the reason.
        """
        planned, done = len(self.data) + sum(one.planned(self) for one in self.checks), 0
        for step in chain(self._samples(), *(self._steps(check) for check in self.checks)):
            if not self.state.has(step.name):
                progress(done, max(planned, done + 1), step.words)
                self.state.save(step.name, *step.do())
            done += 1
        progress(done, done, "")

    def _steps(self, check: Check) -> Iterator[Step]:
        if not any(self.answered(k) for k in range(len(self.data))):
            self.skipped[check.name] = "no method has an answer"
            return
        try:
            yield from check.steps(self)
        except AttributionError as error:
            self.skipped[check.name] = error.message

    def _samples(self) -> Iterator[Step]:
        for k, item in enumerate(self.data.items):
            yield Step(item_name(k), f"sample {item.id}", partial(samples.explained, self, k))

    # --- what is kept

    def item(self, k: int) -> dict[str, Any]:
        """The numbers of a sample."""
        if k not in self._kept:
            self._kept[k] = self.state.numbers(item_name(k))
        return self._kept[k]

    def maps(self, k: int, method: str) -> dict[str, Array]:
        """The maps of a sample by layer: those of the method's own layers."""
        return self.kept(item_name(k), f"map/{method}/")

    def hidden(self, k: int, method: str, layer: str) -> dict[str, Array]:
        """Of a hidden layer `sums` of its channels, and of the `strongest` the `maps`."""
        return self.kept(item_name(k), f"hidden/{method}/{layer}/")

    def kept(self, step: str, prefix: str) -> dict[str, Array]:
        """The arrays of a step whose names begin so, by the rest of their names."""
        found = self.state.arrays(step, prefix)
        return {name.removeprefix(prefix): array for name, array in found.items()}

    def answered(self, k: int) -> list[str]:
        """The methods that have an answer for a sample."""
        return [name for name, one in self.item(k)["methods"].items() if "error" not in one]

    @cached_property
    def everywhere(self) -> list[str]:
        """The methods that have an answer for all samples: those that can be compared."""
        return [
            name
            for name in self.settings.methods
            if all(name in self.answered(k) for k in range(len(self.data)))
        ]

    def prediction(self, k: int) -> dict[str, Any] | None:
        if not self.state.has(item_name(k)):
            return None
        found: dict[str, Any] | None = self.item(k)["prediction"]
        return found


def item_name(k: int) -> str:
    """The name of the step of a sample."""
    return f"item-{k:06d}"

"""An audit as steps, each of which is done once: attributions of each sample, then the checks that need them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from statistics import median
from typing import Any

from onnx_attribution.client.audit import samples
from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.client.audit.questions import Questions
from onnx_attribution.client.audit.state import State
from onnx_attribution.client.audit.steps import Aim, Check, Model, Settings, Step
from onnx_attribution.errors import AttributionError
from onnx_attribution.methods import Method, make
from onnx_attribution.values import Array

__all__ = ["Aim", "Audit", "Check", "Model", "Settings", "Step", "item_name"]

FIRST = 2
"""Samples after which it is said how long an audit takes."""
FINE, COARSE = 64, 32
"""Steps of a path above which the checks take fewer, and how many."""

BACKWARD = 3
"""About how much longer a row with derivatives takes."""


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
        self.budget: float | None = None
        self._explained: Sequence[int] = ()
        self._coarse: dict[str, Method] | None = None
        self._kept: dict[int, dict[str, Any]] = {}

    def run(
        self,
        progress: Callable[[int, int, str], None] = lambda done, planned, words: None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Does every step that is not done. `progress` is told how many are, of about how many, and which is next;
        `tell` once how long all will take, as soon as that can be said.

        A check that cannot be done with this model, or not in what is left of the `budget` (seconds, None: without
        end), is `skipped`, with the reason.
        """
        began, goes_on = time.monotonic(), len(self._known()) >= min(FIRST, len(self.data))
        planned, done = len(self.data) + sum(one.planned(self) for one in self.checks), 0
        for step in chain(self._samples(), *(self._steps(check, began) for check in self.checks)):
            if not self.state.has(step.name):
                progress(done, max(planned, done + 1), step.words)
                self.state.save(step.name, *step.do())
            done += 1
            if done == min(FIRST, len(self.data)):
                tell(f"{self._plan_words()}{'; some of it is done' * goes_on}")
        progress(done, done, "")

    def _steps(self, check: Check, began: float) -> Iterator[Step]:
        if not any(self.answered(k) for k in range(len(self.data))):
            self.skipped[check.name] = "no method has an answer"
            return
        begun = False
        try:
            for done, step in enumerate(check.steps(self)):
                if self.state.has(step.name):
                    yield step
                    continue
                left = math.inf if self.budget is None else self.budget - (time.monotonic() - began)
                needed = check.seconds(self) * max(1 - done / max(check.planned(self), 1), 0)
                if left < 0 or (needed > left and not begun and len(self._known()) >= FIRST):
                    self.skipped[check.name] = (
                        f"it would take about {duration(needed)}, and --budget leaves {duration(max(left, 0))}; a "
                        "larger budget goes on from here"
                    )
                    return
                begun = True
                yield step
        except AttributionError as error:
            self.skipped[check.name] = error.message

    def _plan_words(self) -> str:
        """How long the samples and each check will take, by the samples that are explained so far."""
        own = _typical([self.item(k)["seconds"] for k in self._known()]) * len(self.data)
        parts = {"samples": own, **{one.name: one.seconds(self) for one in self.checks}}
        listed = ", ".join(f"{name} {duration(each)}" for name, each in parts.items())
        return f"about {duration(sum(parts.values()))} in all: {listed}"

    def _samples(self) -> Iterator[Step]:
        for k, item in enumerate(self.data.items):
            yield Step(item_name(k), f"sample {item.id}", partial(samples.explained, self, k))
        if self.checks and (names := list(self.coarse)):
            for k, item in enumerate(self.data.items):
                yield Step(
                    coarse_name(k), f"sample {item.id}, coarsely", partial(samples.coarse, self, k, names)
                )

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

    @property
    def everywhere(self) -> list[str]:
        """The methods that have an answer for all samples (as yet): those that can be compared."""
        known = self._known()
        return [name for name in self.settings.methods if all(name in self.answered(k) for k in known)]

    def maps_of(self, method: str) -> set[str]:
        """The layers of which a method has maps or numbers."""
        return {layer for one in self._answers(method) for layer in one["layers"]}

    def maps_compared(self, k: int, method: str) -> dict[str, Array]:
        """The maps with which checks compare those that they ask for."""
        return self.kept(coarse_name(k), f"map/{method}/") if method in self.coarse else self.maps(k, method)

    # --- what it costs

    def _known(self) -> Sequence[int]:
        """The samples that are explained."""
        if len(self._explained) < len(self.data):
            self._explained = [k for k in range(len(self.data)) if self.state.has(item_name(k))]
        return self._explained

    @property
    def coarse(self) -> dict[str, Method]:
        """The methods that refine until an error is small, where that takes more than `FINE` steps: checks, which ask
        again and again for maps to compare, take `COARSE` steps for both maps."""
        if self._coarse is not None:
            return self._coarse
        found: dict[str, Method] = {}
        known = self._known()
        for name, method in self.settings.methods.items():
            refines = all(getattr(method, word, 0) is None for word in ("steps", "tolerance", "max_steps"))
            if refines and (steps := [one["steps"] for one in self._answers(name)]) and median(steps) > FINE:
                found[name] = make(method, {"steps": COARSE})
        if len(known) == len(self.data):
            self._coarse = found
        return found

    def _answers(self, method: str) -> list[dict[str, Any]]:
        """What a method has answered so far."""
        told = [self.item(k)["methods"][method] for k in self._known()]
        return [one for one in told if "error" not in one]

    @property
    def checked(self) -> Mapping[str, Method]:
        return {**self.settings.methods, **self.coarse}

    def seconds_of(self, method: str) -> float:
        """About how long an answer of a method takes, as the checks ask for it."""
        told = [
            one["seconds"] * (min(COARSE / one["steps"], 1.0) if method in self.coarse else 1.0)
            for one in self._answers(method)
        ]
        return _typical(told)

    def seconds_of_runs(self, calls: float, rows: float) -> float:
        """About how long so many calls with so many rows in all take the model without its derivatives."""
        known = self._known()
        own = _typical([self.item(k).get("run_seconds", 0.0) for k in known])
        answers = [one for name in self.settings.methods for one in self._answers(name)]
        row = min((one["seconds"] / one["evaluations"] for one in answers if one["evaluations"]), default=own)
        return calls * own + rows * min(row / BACKWARD, own)

    def prediction(self, k: int) -> dict[str, Any] | None:
        if not self.state.has(item_name(k)):
            return None
        found: dict[str, Any] | None = self.item(k)["prediction"]
        return found


def _typical(seconds: Sequence[float]) -> float:
    """The median, or of few the least: the first of all has waited for its program to be made."""
    return float(min(seconds, default=0.0) if len(seconds) < 4 else median(seconds))


def duration(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def coarse_name(k: int) -> str:
    """The name of the step of a sample's coarse maps."""
    return f"coarse-{k:06d}"


def item_name(k: int) -> str:
    """The name of the step of a sample."""
    return f"item-{k:06d}"

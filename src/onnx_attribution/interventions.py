"""Interventions: activations that are removed, set, scaled or patched, and what the target is then. Needs numpy only.

client.intervene("digits", images, [
    Edit("conv2", 3),                           # channel 3 is removed: 0
    Edit("conv2", (3, 0, 0), to=1.5),           # one neuron is set
    Edit("conv2", [3, 5], scale=0.5),           # two channels are halved
    Edit("conv2", (slice(None), 0), to="mean"), # the first row of every channel is its mean over the samples
    [Edit("conv1", to=Patch(1)), Edit("conv2", 3)],  # two layers: all of conv1 is that of sample 1
], target=7)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.parameters import shown
from onnx_attribution.values import Array, BatchMode, ResolvedTarget, Selection, Target

__all__ = ["MEAN", "Edit", "Intervened", "Intervention", "InterventionRequest", "Patch", "Ranked"]

MEAN: Literal["mean"] = "mean"


@dataclass(frozen=True, eq=False)
class Ranked:
    """The elements whose number is at least `start` and below `stop`: with ranks for numbers the first ones, with
    numbers of groups one or some of these.

    `numbers` are integers that broadcast to one sample of the layer, or with an axis more in front, to all samples.
    Edits that share the array send it once.
    """

    numbers: Array
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, eq=False)
class Patch:
    """The layer's values at other inputs: the donors of the request, or without any its own samples.

    `rows` says which of these a sample takes: one for all samples, or one for each; None: the only one, or that of the
    sample's own number.
    """

    rows: int | Sequence[int] | NDArray[np.integer] | None = None


Replacement = float | Array | Patch | Literal["mean"]


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of some elements of a layer: a tensor of the model, inputs included.

    `at` says which, within one sample, without the batch axis; None: all.

    - an int, or a tuple of ints, slices and masks for the leading axes: `3` is channel 3, `(slice(None), 0)` the first
      position of each channel;
    - a mask: an array of truth values for the leading axes, or for all samples with an axis more than one sample;
    - a list of these: all that one of them selects;
    - `Ranked`: elements by the numbers that they have.

    They become `to`: a number (0 removes them), an array that broadcasts to one sample or to `[samples, *unit]`,
    "mean", their mean over the donors (or samples), or a `Patch`. With `scale` they are multiplied instead.
    """

    layer: str
    at: Selection | Ranked = None
    to: Replacement = 0.0
    scale: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            raise InvalidArgument(f"the layer of an edit is a name, not {shown(self.layer)}")
        if isinstance(self.to, str) and self.to != MEAN:
            raise InvalidArgument(
                f"the edit of {self.layer!r}: to is a number, an array, a Patch or {MEAN!r}, not {self.to!r}"
            )
        if self.scale is None:
            return
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float | np.number):
            raise InvalidArgument(f"the edit of {self.layer!r}: scale is a number, not {shown(self.scale)}")
        if not np.isfinite(self.scale):
            raise InvalidArgument(f"the edit of {self.layer!r}: scale is {self.scale}; it is finite")
        if not (isinstance(self.to, int | float) and self.to == 0):
            raise InvalidArgument(f"the edit of {self.layer!r} has both to and scale; give one of them")


Intervention = Edit | Sequence[Edit]
"""What is done in one run: one edit, or several, in this order where they are of one layer."""


@dataclass(frozen=True, init=False, eq=False)
class InterventionRequest:
    """What `target` is under each of the `interventions`, for each sample of `inputs`.

    `outputs` are further tensors to be answered, any of the model. `donors` are inputs as `inputs`, of any number of
    samples, from which patches and means are taken.

    Raises:
        InvalidArgument: an intervention is no edit and no list of them, or there is none.
    """

    model: str
    inputs: Mapping[str, Array]
    interventions: tuple[tuple[Edit, ...], ...]
    target: Target
    outputs: tuple[str, ...]
    donors: Mapping[str, Array]

    def __init__(
        self,
        model: str,
        inputs: Mapping[str, Array],
        interventions: Intervention | Sequence[Intervention],
        target: Target | Selection = None,
        outputs: Sequence[str] = (),
        donors: Mapping[str, Array] | None = None,
    ) -> None:
        given = {
            "model": model,
            "inputs": inputs,
            "interventions": each_of(interventions),
            "target": Target.of(target),
            "outputs": (outputs,) if isinstance(outputs, str) else tuple(outputs),
            "donors": {} if donors is None else donors,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)


def each_of(given: Any) -> tuple[tuple[Edit, ...], ...]:
    """The edits of each intervention. Raises: InvalidArgument: something else is among them, or there are none."""
    if isinstance(given, Edit):
        return ((given,),)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise InvalidArgument(f"interventions are a list of edits, or of lists of them, not {shown(given)}")
    if not given:
        raise InvalidArgument("there is no intervention")
    found: list[tuple[Edit, ...]] = []
    for number, one in enumerate(given):
        edits = (one,) if isinstance(one, Edit) else one
        if not isinstance(edits, Sequence) or isinstance(edits, str | bytes):
            raise InvalidArgument(f"interventions[{number}] is no edit and no list of them, but {shown(one)}")
        for edit in edits:
            if not isinstance(edit, Edit):
                raise InvalidArgument(f"interventions[{number}] holds {shown(edit)}, which is no edit")
        found.append(tuple(edits))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Intervened:
    """What the target is without any edit, `target.value` `[samples]`, and under each intervention, `values`
    `[interventions, samples]`.

    `largest`, and `largest_before` without any edit, are the number of the largest element of the target's tensor: the
    class that the model decides for, where only one axis of a sample has several and none is NaN; -1 elsewhere.
    `outputs` are the tensors that were asked for, `[interventions, samples, *unit]`, and `outputs_before`
    `[samples, *unit]`.
    """

    target: ResolvedTarget
    values: NDArray[np.float64]
    largest: NDArray[np.int64]
    largest_before: NDArray[np.int64]
    outputs: Mapping[str, NDArray[Any]]
    outputs_before: Mapping[str, NDArray[Any]]
    batch: BatchMode
    evaluations: int
    seconds: float
    digest: str
    provider: str
    warnings: tuple[str, ...] = ()

    @property
    def effects(self) -> NDArray[np.float64]:
        """By how much each intervention changes the target, `[interventions, samples]`."""
        return self.values - self.target.value

"""What goes into an attribution and what comes out: the words that engine and client share. Needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Index = int | slice | NDArray[np.bool_]
Region = Sequence[Index | tuple[Index, ...]]
Selector = Index | tuple[Index, ...] | NDArray[np.floating] | Region | None  # within one sample
Selection = Selector | Sequence[Selector] | Array  # for all samples, or one for each
BatchMode = Literal["dynamic", "freed", "single"]
Method = Literal[
    "gradient",
    "gradient_x_activation",
    "integrated_gradients",
    "neuron_ig",
    "deeplift_rescale",
    "deeplift_reveal_cancel",
    "deeplift_genomics_default",
    "occlusion",
]
METHODS: tuple[Method, ...] = (
    "gradient",
    "gradient_x_activation",
    "integrated_gradients",
    "neuron_ig",
    "deeplift_rescale",
    "deeplift_reveal_cancel",
    "deeplift_genomics_default",
    "occlusion",
)
PATH_METHODS: frozenset[Method] = frozenset({"integrated_gradients", "neuron_ig"})
DEEPLIFT_METHODS: frozenset[Method] = frozenset(
    {"deeplift_rescale", "deeplift_reveal_cancel", "deeplift_genomics_default"}
)
GRADIENT_METHODS: frozenset[Method] = frozenset({"gradient", "gradient_x_activation"})
"""Methods that know no reference."""
SOURCE_METHODS: frozenset[Method] = frozenset({"integrated_gradients", "occlusion"})
"""Methods that attribute to their source: a layer that is asked for is the source."""
Quadrature = Literal[
    "trapezoid",
    "left",
    "right",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
    "gausslegendre",
]
QUADRATURES: tuple[Quadrature, ...] = (
    "trapezoid",
    "left",
    "right",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
    "gausslegendre",
)
NearZero = Literal["midpoint", "input", "reference"]
"""Where the gradient is taken that stands for DeepLIFT's secant where x and x' are too close for a quotient."""
NEAR_ZERO: tuple[NearZero, ...] = ("midpoint", "input", "reference")
ModelState = Literal["READY", "FAILED", "UNLOADED"]
StopReason = Literal["max_steps", "converged", "exact", "deadline_near", "draining"]


@dataclass(frozen=True)
class Target:
    """The scalar per sample that is explained.

    `tensor` names an output, or any other float tensor (a hidden neuron is a target too; for occlusion integers and
    truth values will do); None takes the only float output, or the scores before outputs that are labels or
    maps. `index` selects within one sample, without the batch axis; what is selected is summed:

    - an int, or a tuple of ints, slices and masks (arrays of truth values for as many axes as they have): `(1, mask)`;
    - a mask of the shape of one sample's target, or an array of floats of that shape: the weights of a weighted sum;
    - a list of such tuples: a region, element by element, each at most once;
    - None: the only element, or the largest at the input where only one axis has several, as `[batch, classes]`;
    - one of these for each sample in a list, or masks and weights as `[samples, *unit]`.

    A list of tuples is one for each sample if there are several samples, and a region if there is one; a list in a list
    is a region for all samples, or for each. Integers in an array are read as lists are. `minus`, of the same forms, is
    subtracted.
    `logit` takes what a final Softmax, LogSoftmax or Sigmoid is made of in place of the tensor; `mean_centred`
    subtracts the mean over the classes, which is what remains of a logit behind a softmax (arXiv 1605.01713, eq. 21).
    """

    tensor: str | None = None
    index: Selection = None
    minus: Selection = None
    logit: bool = False
    mean_centred: bool = False


@dataclass(frozen=True)
class References:
    """Several baselines for each sample, over which the answer is averaged (Captum's distributions of baselines).

    `values` is `[references, *unit]`, for all samples, or with `per_sample` `[samples, references, *unit]`; of several
    sources, those of one place belong together.
    """

    values: Array
    per_sample: bool = False


Baseline = Array | float | str | References


@dataclass(frozen=True)
class AttributionRequest:
    """One question: which units of `layers` (default: the source itself) contribute how much to `target`.

    `inputs` maps every model input to an array with its batch axis. `source` names the tensors on which the path
    or the reference lives (default: the float inputs). `baselines` maps a source (or a model input, whose
    activation at a hidden source is then taken) to a scalar, an array that broadcasts to it, or `References`; default
    zeros.
    `steps` is the number of path segments (trapezoid, left, right) or Captum's `n_steps` (its five quadratures).
    With `tolerance`, the grid is doubled from `steps` up to `max_steps` until the estimated L1 error is at most
    `tolerance` times the L1 norm of the attributions. `near_zero` says where DeepLIFT takes the gradient that stands
    for a secant whose ends are too close for a quotient: at the midpoint, or as Captum at the input, or as
    kundajelab/deeplift at the reference.

    The fields below are for occlusion, whose sources may hold integers, text and truth values too (baselines: 0, ""
    and False) and are by default the inputs of which each sample has its own, or those that `groups` and `windows`
    name. `groups` maps a source to integers from 0 that broadcast to the shape of one sample: elements of one number
    are replaced together, across sources too (Captum's `feature_mask`). `windows` maps a source to the sizes of a
    window that moves over its last axes by `strides` (default: the window, so that windows do not overlap); leading
    axes that it leaves out are taken whole. A source with neither has every element as its own group.
    """

    model: str
    inputs: Mapping[str, Array]
    method: Method = "neuron_ig"
    layers: Sequence[str] = ()
    source: Sequence[str] = ()
    target: Target = field(default_factory=Target)
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    steps: int = 64
    max_steps: int = 1024
    tolerance: float | None = None
    quadrature: Quadrature = "trapezoid"
    multiply_by_inputs: bool = True
    near_zero: NearZero = "midpoint"
    request_id: str = ""
    groups: Mapping[str, Array] = field(default_factory=dict)
    windows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    strides: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerAttribution:
    """The attributions of one layer: `values` is `[samples, *unit shape]`, the other fields are per sample.

    The unit shape is the layer's without its batch axis; where samples are run one by one (`Attribution.batch` is
    "single", or a warning says so) it is the layer's whole shape.

    `sum` is the float64 sum of the values; `residual` is `sum - (value - baseline_value)`; `error_estimate` is an
    estimate of the L1 error of the values, at a cut never below |residual|. Both are NaN where there is none: only path
    methods have an error estimate, and the values of gradients and occlusion need not sum to the change. `cut`: whether
    every way from source to target crosses the layer, without which `residual` measures what bypasses it. `spread` is
    the L1 norm of the standard deviation of the values over several references; NaN with one.
    """

    name: str
    values: Array
    sum: NDArray[np.float64]
    residual: NDArray[np.float64]
    error_estimate: NDArray[np.float64]
    cut: bool
    spread: NDArray[np.float64]


@dataclass(frozen=True)
class ResolvedTarget:
    """The target as it was taken: the tensor, per sample the index in words, its value at x and at the baseline."""

    tensor: str
    index: tuple[str, ...]
    value: NDArray[np.float64]
    baseline_value: NDArray[np.float64]


@dataclass(frozen=True)
class Attribution:
    """An answer. `evaluations` counts rows run through the network, forward or with its gradient.

    `joint_residual`, per sample, is there where several layers are a cut together, such as all sources: the sum over
    all of them less `value - baseline_value`.
    """

    method: Method
    batch: BatchMode
    target: ResolvedTarget
    layers: Mapping[str, LayerAttribution]
    evaluations: int
    steps: int
    seconds: float
    digest: str
    provider: str
    warnings: tuple[str, ...] = ()
    joint_residual: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Accepted:
    """The request is understood: what will be computed, before anything expensive is."""

    request_id: str
    digest: str
    batch: BatchMode
    target_tensor: str
    layers: tuple[str, ...]
    planned_evaluations: int


@dataclass(frozen=True)
class Progress:
    """`done` of `planned` evaluations; also the heartbeat of a stream."""

    done: int
    planned: int
    seconds: float


@dataclass(frozen=True)
class Revision:
    """One estimate; a later one has more steps. The attribution is complete in itself."""

    number: int
    attribution: Attribution


@dataclass(frozen=True)
class Completed:
    """The end of a stream: why it stopped and which revision is best."""

    stop_reason: StopReason
    best_revision: int


Event = Accepted | Progress | Revision | Completed


@dataclass(frozen=True)
class TensorInfo:
    """A model input or output. `shape` holds ints, names of symbolic dimensions, or None where unknown."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    batch_axis: int | None

    def sample_axis(self, shape: Sequence[int], batch: BatchMode | None) -> int | None:
        """The axis of the samples of an array of this shape, given for this input; None: all samples share it.

        It is the batch axis; where samples are run one by one, an axis in front of the input's own, or the only one
        along which the file has room for one and the array holds several.
        """
        own = self.shape or ()
        if batch == "single" and len(shape) == len(own) + 1:
            return 0
        if self.batch_axis is not None or batch != "single" or len(shape) != len(own):
            return self.batch_axis if len(shape) == len(own) else None
        larger = [k for k, (d, n) in enumerate(zip(own, shape, strict=True)) if d == 1 and n > 1]
        return larger[0] if len(larger) == 1 else None


@dataclass(frozen=True)
class LayerInfo:
    """A tensor that can be attributed to: the node that makes it, and whether it is a cut from source to target."""

    name: str
    node: str
    operator: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    cut: bool


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a served model. `state` is READY, or FAILED with its `reason`, or UNLOADED before first use."""

    name: str
    version: int
    state: ModelState
    reason: str = ""
    digest: str = ""
    opset: int = 0
    batch: BatchMode | None = None
    sources: tuple[str, ...] = ()
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()

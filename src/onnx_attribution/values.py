"""What goes into an attribution and what comes out: the words that engine and client share. Needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import DEFAULT, Method, make
from onnx_attribution.parameters import alike, shown
from onnx_attribution.supports import Support

Array = NDArray[np.generic]
Index = int | slice | NDArray[np.bool_]
Region = Sequence[Index | tuple[Index, ...]]
Selector = Index | tuple[Index, ...] | NDArray[np.floating] | Region | None  # within one sample
Selection = Selector | Sequence[Selector] | Array  # for all samples, or one for each
BatchMode = Literal["dynamic", "freed", "single"]
ModelState = Literal["READY", "FAILED", "UNLOADED"]
Held = Literal["image", "text", "audio", "array"]
Order = Literal["chw", "hwc"]
Colours = Literal["rgb", "bgr", "gray"]
Kind = TypeVar("Kind", "LayerAttribution", "LayerFlow")
StopReason = Literal["max_steps", "converged", "exact", "deadline_near", "draining"]

EVERY_KIND, EVERY_TENSOR = "*", "**"
"""Names of layers: the outputs of activations, pooling, normalisation and residual additions; every float tensor."""


@dataclass(frozen=True)
class Target:
    """The scalar per sample that is explained.

    `tensor` names an output, or any other float tensor (a hidden neuron is a target too; methods without derivatives
    take integers and truth values as well); None takes the only float output, or the scores before outputs that are
    labels or maps. `index` selects within one sample, without the batch axis; what is selected is summed:

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

    @classmethod
    def of(cls, given: Target | Selection, role: str = "target") -> Target:
        """The target itself, or that of an index. Raises: InvalidArgument: it is neither; `role` says what it is."""
        if isinstance(given, Target):
            return given
        if isinstance(given, bool) or not isinstance(
            given, int | np.integer | slice | tuple | list | np.ndarray | None
        ):
            named = f"; a tensor is named by Target({given!r})" if isinstance(given, str) else ""
            raise InvalidArgument(
                f"{role} is a Target or an index, not {shown(given)}{named}", reason=Reason.TARGET_INVALID
            )
        return cls(index=given)

    @classmethod
    def each_of(cls, given: object) -> tuple[Target, ...]:
        """Several targets, from targets or indices. Raises: InvalidArgument: it is no list of them, or an empty one."""
        if isinstance(given, np.ndarray) and given.ndim:
            given = list(given)
        if not isinstance(given, Sequence) or isinstance(given, str | bytes):
            raise InvalidArgument(
                f"targets are a list of targets or indices, not {shown(given)}", reason=Reason.TARGET_INVALID
            )
        if not len(given):
            raise InvalidArgument(
                "the list of targets is empty; leave it out for the default target",
                reason=Reason.TARGET_INVALID,
            )
        return tuple(cls.of(one, f"targets[{k}]") for k, one in enumerate(given))


@dataclass(frozen=True)
class References:
    """Several baselines for each sample, over which the answer is averaged (Captum's distributions of baselines).

    `values` is `[references, *unit]`, for all samples, or with `per_sample` `[samples, references, *unit]`; of several
    sources, those of one place belong together.
    """

    values: Array
    per_sample: bool = False


Baseline = Array | float | str | References
ChannelSums = Literal["auto"] | int | None


def _channel_sums(given: object) -> ChannelSums:
    """Raises: InvalidArgument: it is neither an axis nor "auto" nor None."""
    if given is None or given == "auto":
        return "auto" if given else None
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given == 0:
        raise InvalidArgument(
            f'channel_sums is "auto" or the axis of the channels with the samples in front, 1 or more, or counted from '
            f"the end; not {shown(given)}",
            option="channel_sums",
        )
    return int(given)


@dataclass(frozen=True, init=False, eq=False)
class AttributionRequest:
    """One question: which units of `layers` (default: the source itself) contribute how much to `target`, or to each of
    several `targets`.

    Among the names of `layers`, "*" stands for the outputs of activations, pooling, normalisation and residual
    additions between the source and all targets, "**" for every float tensor there to which a derivative leads.
    `inputs` maps every model input to an array with its batch axis. `method` is a value of `onnx_attribution.methods`,
    or the name of one with its parameters as keywords: `AttributionRequest(..., "neuron_ig", steps=256)`. `source`
    names the tensors on which the path or the reference lives (default: the float inputs, or what the method says).
    `baselines` maps a source (or a model input, whose activation at a hidden source is then taken) to a scalar, an
    array that broadcasts to it, or `References`; default zeros. With `sums_only` the answer holds the sums of layers
    without the values of their units.

    With `channel_sums` the values are `[samples, channels]`, the sums over the positions of each channel. It is the
    axis of the channels, counted with the samples in front, or "auto" for that which the operators around the layer
    have: 1 at convolutions, `[N, C, H, W]` or `[N, C, L]`, the last at products with weights, `[N, T, D]` or `[N, K]`,
    else 1 of four axes or more and the last of fewer.

    Raises:
        InvalidArgument: a parameter that the method does not know, or that is out of its bounds; no target, or both
            `target` and `targets`.
    """

    model: str
    inputs: Mapping[str, Array]
    method: Method
    layers: Sequence[str]
    source: Sequence[str]
    target: Target | None
    baselines: Mapping[str, Baseline]
    request_id: str
    targets: tuple[Target, ...] | None
    sums_only: bool
    channel_sums: ChannelSums

    def __init__(
        self,
        model: str,
        inputs: Mapping[str, Array],
        method: Method | str = DEFAULT,
        layers: Sequence[str] = (),
        source: Sequence[str] = (),
        target: Target | Selection = None,
        baselines: Mapping[str, Baseline] | None = None,
        *,
        request_id: str = "",
        targets: Sequence[Target | Selection] | Array | None = None,
        sums_only: bool = False,
        channel_sums: ChannelSums = None,
        **parameters: Any,
    ) -> None:
        if target is not None and targets is not None:
            raise InvalidArgument("give target or targets, not both", reason=Reason.TARGET_INVALID)
        given = {
            "model": model,
            "inputs": inputs,
            "method": make(method, parameters),
            "layers": layers,
            "source": source,
            "target": Target.of(target) if targets is None else None,
            "baselines": {} if baselines is None else baselines,
            "request_id": request_id,
            "targets": None if targets is None else Target.each_of(targets),
            "sums_only": bool(sums_only),
            "channel_sums": _channel_sums(channel_sums),
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and alike(vars(self), vars(other))

    def changed(self, **given: Any) -> AttributionRequest:
        """The request with other fields, or other parameters of its method."""
        other = {"target": "targets", "targets": "target"}
        left = {name: value for name, value in vars(self).items() if not given.keys() & {other.get(name)}}
        return AttributionRequest(**{**left, **given})

    @property
    def each_target(self) -> tuple[Target, ...]:
        """The targets, one or several."""
        return self.targets or (self.target or Target(),)


@dataclass(frozen=True)
class LayerAttribution:
    """The attributions of one layer: `values` is `[samples, *unit shape]`, the other fields are per sample. Where the
    request names `targets`, an axis for them lies in front of all: `[targets, samples, ...]`.

    The unit shape is the layer's without its batch axis; where samples are run one by one (`Attribution.batch` is
    "single", or a warning says so) it is the layer's whole shape.

    `sum` is the float64 sum of the values; `residual` is `sum - (value - baseline_value)`; `error_estimate` is an
    estimate of the L1 error of the values, at a cut never below |residual|. Both are NaN where there is none: only path
    methods have an error estimate, and not the values of every method sum to the change. `cut`: whether every way from
    source to target, or to any of several, crosses the layer, without which `residual` measures what bypasses it.
    `spread` is the L1 norm of the standard deviation of the values over several references; NaN with one.

    Of a request with `sums_only`, `values` is `[samples, 0]`, and error estimate and spread are those of the sum; with
    `channel_sums` it is `[samples, channels]`, and these are of that.
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
    """The target as it was taken: the tensor, per sample the index in words, its value at x and at the baseline; NaN
    there for methods that compare with none. `labels` are per sample what the file beside the model calls the classes
    of the index; empty where it does not say."""

    tensor: str
    index: tuple[str, ...]
    value: NDArray[np.float64]
    baseline_value: NDArray[np.float64]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerFlow:
    """What of the target's change goes through a layer, per sample: the `total` of its attributions, and its `share` of
    the change; NaN where nothing changes. At a cut all of the change does, but for the error of the sum."""

    total: NDArray[np.float64]
    share: NDArray[np.float64]
    cut: bool


@dataclass(frozen=True)
class Flow:
    """How the change of the target flows through the layers that were asked for.

    `cut_sets` are sets of two or more of them of which every way from source to target crosses exactly one, so that
    their totals sum to the change; of parallel branches not every mixture is listed. `residuals` has for each set what
    that sum misses, per sample; NaN for those of several targets whose ways cross more or none.
    """

    layers: Mapping[str, LayerFlow]
    cut_sets: tuple[tuple[str, ...], ...] = ()
    residuals: tuple[NDArray[np.float64], ...] = ()


@dataclass(frozen=True)
class Attribution:
    """An answer. `evaluations` counts rows run through the network, forward or with its gradient.

    `joint_residual`, per sample, is there where several layers are a cut together, such as all sources: the sum over
    all of them less `value - baseline_value`; NaN for those of several targets of which they are none. `several`:
    whether the request names `targets`, so that the arrays have an axis for them. `flow` is there for methods whose
    attributions sum to the change at a cut. `supports` is there for methods whose attributions are 0 outside of one:
    one for each sample, of several targets all samples of the first, then all of the second, and so on. `resumed`:
    whether a client had to ask once more, because the stream had broken.
    """

    method: str
    batch: BatchMode
    targets: tuple[ResolvedTarget, ...]
    layers: Mapping[str, LayerAttribution]
    evaluations: int
    steps: int
    seconds: float
    digest: str
    provider: str
    warnings: tuple[str, ...] = ()
    joint_residual: NDArray[np.float64] | None = None
    several: bool = False
    flow: Flow | None = None
    supports: tuple[Support, ...] = ()
    resumed: bool = False

    @property
    def target(self) -> ResolvedTarget:
        """The target of an answer about one."""
        if len(self.targets) != 1:
            raise AttributeError(f"the answer is about {len(self.targets)} targets; they are in `targets`")
        return self.targets[0]

    def each(self) -> tuple[Attribution, ...]:
        """An answer for each target, with arrays of `[samples, ...]`; warnings, evaluations and time are of all."""
        if not self.several:
            return (self,)

        def only(layer: Kind, k: int) -> Kind:
            return replace(layer, **{n: a[k] for n, a in vars(layer).items() if isinstance(a, np.ndarray)})

        def flow(k: int) -> Flow | None:
            if self.flow is None:
                return None
            each = zip(self.flow.cut_sets, self.flow.residuals, strict=True)
            own = [(names, residual[k]) for names, residual in each if not np.isnan(residual[k]).all()]
            layers = {name: only(layer, k) for name, layer in self.flow.layers.items()}
            return Flow(layers, tuple(names for names, _ in own), tuple(residual for _, residual in own))

        joint = self.joint_residual
        count = len(self.supports) // len(self.targets)
        return tuple(
            replace(
                self,
                targets=(target,),
                layers={name: only(layer, k) for name, layer in self.layers.items()},
                joint_residual=None if joint is None or np.isnan(joint[k]).all() else joint[k],
                several=False,
                flow=flow(k),
                supports=self.supports[k * count : (k + 1) * count],
            )
            for k, target in enumerate(self.targets)
        )


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
    resumed: bool = False
    """Of a client: the stream had broken, and the request was asked once more."""


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
class ServerInfo:
    """What a server is. `limits` are in samples, steps, calls, seconds or MiB, by the names of the settings;
    `operators` are those with a derivative."""

    version: str
    versions: Mapping[str, str]
    provider: str
    threads: int
    devices: tuple[int, ...]
    limits: Mapping[str, float]
    methods: tuple[str, ...]
    operators: tuple[str, ...]
    uploads: bool
    models: int
    loaded_models: int


@dataclass(frozen=True)
class LayerInfo:
    """A tensor that can be attributed to: the node that makes it, and whether it is a cut from source to target.

    `after` are the layers of the same list that it depends on by a way that crosses no other of them; `channel_axis` is
    the axis of its shape that has its channels, as its operators have it (None: not known).
    """

    name: str
    node: str
    operator: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    cut: bool
    after: tuple[str, ...] = ()
    channel_axis: int | None = None


@dataclass(frozen=True)
class Preprocessing:
    """How an input is made of what people hold. Of an image: `(pixel * scale - mean) / std`, a pixel counting from 0
    (black) to 255 (white), resized to `size` (height and width), where that is said.

    `mean` and `std` are one number, or one for each channel in the order of `colours`; `layout` is the order of the
    axes of one sample. None: it is not said.
    """

    kind: Held
    size: tuple[int, int] | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Order | None = None
    colours: Colours | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a served model. `state` is READY, or FAILED with its `reason`, or UNLOADED before first use.

    What the file beside a loaded model says: `description`, by output the names of its classes, by input its
    `preprocessing`.
    """

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
    load_seconds: float = 0.0
    description: str = ""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)

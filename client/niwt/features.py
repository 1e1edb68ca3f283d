"""How the features before a head depend on a layer: M(x), the sums over positions of their derivatives.

The logit of any class is `phi(x) . w + b`, whatever its weights are, so its importance at a layer is `M(x) w` with

    M(x)[k, d] = sum over the positions of unit k of d phi_d / d layer

which ordinary gradients of the features give. Behind the last positions M is the same for all images: where the head
reads a mean over positions it is the identity, so that the importance of a class is its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.values import Array, Attribution, AttributionRequest, ChannelSums, Target

Ask = Callable[[AttributionRequest], Attribution]
Kind = Literal["identity", "diagonal", "constant", "varying"]

ANSWER = 1 << 25  # bytes of an answer
BUDGET = 1 << 29  # bytes of all M that are held
MOST = 64  # images at which M is taken, unless it is the same for all
TRIED = 8  # images by which it is decided whether M is the same for all
ALIKE = 1e-5
"""What float32 gradients of one M differ by, of their largest."""


@dataclass(frozen=True)
class Features:
    """The tensor that a head reads: `count` features along `axis` of a tensor with `rank` axes, the samples first.

    `sizes` are those of the other axes, of one sample, over which the mean is taken.
    """

    tensor: str
    count: int
    axis: int
    rank: int
    positions: int = 1

    def target(self, feature: int, whole: bool = False) -> Target:
        """The sum of a feature over its positions; `whole`: samples are run one by one, so that theirs is an axis."""
        axes = range(0 if whole else 1, self.rank)
        return Target(self.tensor, tuple(feature if k == self.axis else slice(None) for k in axes))

    def mean(self, values: Array) -> NDArray[np.float64]:
        """The features of samples, `[samples, features]`, of the tensor's values."""
        front = np.moveaxis(np.asarray(values, np.float64), self.axis, -1)
        return np.asarray(front.reshape(len(front), -1, self.count).mean(axis=1))


@dataclass(frozen=True, eq=False)
class Dependence:
    """M of some images, `[images, units, features]`: of one image alone where it is the same for all of them.

    `kind` says what it is like; `images` are the numbers of those at which it was taken.
    """

    M: NDArray[np.float64]
    kind: Kind
    images: tuple[int, ...]
    warnings: tuple[str, ...] = ()


def dependence(
    ask: Ask,
    model: str,
    images: Sequence[Mapping[str, Array]],
    layer: str,
    features: Features,
    *,
    channels: ChannelSums = "auto",
    whole: bool = False,
    budget: int = BUDGET,
    most: int = MOST,
) -> Dependence:
    """M of images, each with its axis of samples; of `most` of them, spread over all, or of as many as the bytes of the
    budget hold.

    Raises:
        InvalidArgument: a way leads to the features around the layer, so that it is no cut before the head.
        NotDifferentiable: no derivative leads from them to the layer.
    """
    if not images:
        raise InvalidArgument(
            "there are no images, and how the features depend on the layer is seen at images only"
        )
    order = spread(len(images))
    first = sums(ask, model, images[order[0]], layer, features, whole, channels)
    room = max(1, budget // max(1, first.nbytes))
    chosen = order[: min(len(order), room, most)]
    found = [first]
    for k in chosen[1:TRIED]:
        found.append(sums(ask, model, images[k], layer, features, whole, channels))
    if len(found) > 1 and same(found):
        return Dependence(found[0][None], kind_of(found[0]), tuple(chosen[:TRIED]))
    for k in chosen[TRIED:]:
        found.append(sums(ask, model, images[k], layer, features, whole, channels))
    warnings: tuple[str, ...] = ()
    if room < min(len(order), most):
        few = f"M is taken at {room} of {len(order)} images: that of more would take over {budget >> 20} MiB"
        warnings = (few,)
    return Dependence(np.stack(found), "varying", tuple(chosen), warnings)


def spread(count: int) -> list[int]:
    """All numbers below a count, so that the first of them lie far apart: halves, quarters and so on."""
    bits = max(1, (count - 1).bit_length())
    mirrored = (int(f"{k:0{bits}b}"[::-1], 2) for k in range(1 << bits))
    return [k for k in mirrored if k < count]


def same(found: Sequence[NDArray[np.float64]]) -> bool:
    """Whether all M are equal, but for what float32 rounds."""
    size = max(float(np.abs(one).max()) for one in found) or 1.0
    return all(float(np.abs(one - found[0]).max()) <= ALIKE * size for one in found[1:])


def kind_of(M: NDArray[np.float64]) -> Kind:
    """What an M that is the same for all images is like."""
    if M.shape[0] == M.shape[1]:
        size = float(np.abs(M).max()) or 1.0
        diagonal = np.diagonal(M)
        if np.abs(M - np.diag(diagonal)).max() <= ALIKE * size:
            return "identity" if np.abs(diagonal - diagonal.mean()).max() <= ALIKE * size else "diagonal"
    return "constant"


def sums(
    ask: Ask,
    model: str,
    image: Mapping[str, Array],
    layer: str,
    features: Features,
    whole: bool = False,
    channels: ChannelSums = "auto",
) -> NDArray[np.float64]:
    """M at one image: `[units, features]`; `channels` says along which axis of the layer the units lie.

    Raises:
        InvalidArgument: the layer is no cut before the features.
    """
    parts: list[NDArray[np.float64]] = []
    size, start = 1, 0
    while start < features.count:
        targets = [features.target(d, whole) for d in range(start, min(start + size, features.count))]
        found = ask(
            AttributionRequest(model, image, "gradient", [layer], targets=targets, channel_sums=channels)
        )
        (answer,) = found.layers.values()
        if not answer.cut:
            raise InvalidArgument(
                f"the layer {layer!r} is no cut before the head: some way leads to {features.tensor!r} around it, so "
                "that its importance does not determine the weights; name a layer that every way crosses "
                "(`onnx-attribution layers` lists them)",
                reason=Reason.LAYER_INVALID, layer=layer,
            )  # fmt: skip
        values = np.asarray(answer.values, np.float64).reshape(len(targets), -1)
        parts.append(values)
        start += len(targets)
        size = max(1, min(features.count, ANSWER // max(1, 8 * values.shape[1])))
    return np.concatenate(parts).T / features.positions

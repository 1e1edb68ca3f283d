"""The gradient of what a convolution reads: a transposed convolution, as the convolutions that run faster.

With stride 1 it is a convolution with the kernel flipped. With stride 2 the positions p = 2 q + r of each residue r
have taps of their own: two convolutions (of images four), each with a part of the kernel, whose results take turns.
Where the kernel makes no sums over channels, or has one tap, zeros between the elements are cheaper. onnxruntime's
ConvTranspose is as fast for few channels, with larger strides, and in one or three axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, shape_of
from onnx_attribution.graph_tools.operators.gates import BLOCK
from onnx_attribution.graph_tools.operators.turns import by_turns, cut, padded

MANY = 128
"""Channels from which on elements of one tap are put apart faster by a pattern."""
START = -(2**62)


@dataclass(frozen=True)
class Taps:
    """Those of one axis that reach the positions s q + r: the taps `last`, `last` - `step`, ... of the kernel at the
    offsets `first`, `first` + `dilation`, ... from q."""

    last: int
    step: int
    count: int
    first: int
    dilation: int

    @property
    def end(self) -> int:
        """The offset of the last one."""
        return self.first + (self.count - 1) * self.dilation


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution: its kernel, and the sizes of what it reads and makes."""

    kernel: int
    stride: int
    dilation: int
    begin: int
    size: int
    made: int

    @property
    def turns(self) -> int:
        """How many positions each residue has."""
        return -(-self.size // self.stride)

    @property
    def extent(self) -> int:
        """How far one window reaches."""
        return (self.kernel - 1) * self.dilation + 1

    def taps(self) -> list[Taps | None]:
        """Of each residue; None where no tap reaches it."""
        found: list[Taps | None] = []
        common = math.gcd(self.dilation, self.stride)
        for residue in range(self.stride):
            reach = [residue + self.begin - k * self.dilation for k in range(self.kernel)]
            hits = [k for k, r in enumerate(reach) if r % self.stride == 0]
            if not hits:
                found.append(None)
                continue
            first = reach[hits[-1]] // self.stride
            found.append(Taps(hits[-1], self.stride // common, len(hits), first, self.dilation // common))
        return found


def as_convolutions(
    op: Emitter, g: Value, kernel: gs.Constant, axes: Sequence[Axis], group: int, *, steady: bool
) -> Value | None:
    """The transposed convolution of `g` `[N, out, *made]` with a constant kernel `[out, in / group, *kernel]`, `[N, in,
    *size]`; None where convolutions are no faster: beyond float32 images of whole blocks of channels.

    `steady`: no infinite numbers arrive, which zeros by a product do not stand.
    """
    out, per_group = (int(d) for d in kernel.shape[:2])
    if len(axes) != 2 or element_type(g) != np.float32 or op.graph.opset < 13:
        return None
    if group == out and per_group == 1:
        return _through_zeros(op, g, kernel, axes, group) if steady and out % BLOCK == 0 else None
    if per_group % BLOCK or (out // group) % BLOCK or max(axis.stride for axis in axes) > 2:
        return None
    if any(axis.kernel > 1 for axis in axes):
        return _by_residues(op, g, kernel, axes, group)
    if not steady or per_group * group < MANY or any(axis.begin for axis in axes):
        return None
    made = op("Conv", g, flipped(op, kernel, group), group=group)
    return _cropped(op, _apart(op, declared(made, g, per_group * group, axes, "made"), axes), axes)


def _by_residues(
    op: Emitter, g: Value, kernel: gs.Constant, axes: Sequence[Axis], group: int
) -> Value | None:
    """The convolutions of all residues, by turns."""
    found, parts = [axis.taps() for axis in axes], {}
    for place in itertools.product(*(range(axis.stride) for axis in axes)):
        chosen = [f[r] for f, r in zip(found, place, strict=True)]
        parts[place] = _part(op, g, kernel, axes, chosen, group)
    return _cropped(op, _taking_turns(op, parts, axes), axes)


def _part(
    op: Emitter,
    g: Value,
    kernel: gs.Constant,
    axes: Sequence[Axis],
    chosen: Sequence[Taps | None],
    group: int,
) -> Value | None:
    """The positions of one residue in each axis; None where no tap reaches them."""
    taps = [t for t in chosen if t is not None]
    if len(taps) < len(chosen):
        return None
    before = [-t.first for t in taps]
    after = [axis.turns - axis.made + t.end for axis, t in zip(axes, taps, strict=True)]
    for k, (b, a) in enumerate(zip(before, after, strict=True), start=2):
        g = padded(op, g, k, min(b, 0), min(a, 0))  # what no tap reaches
    made = op(
        "Conv",
        g,
        exchanged(op, _backwards(op, kernel, taps), kernel, [t.count for t in taps], group),
        pads=[max(p, 0) for p in (*before, *after)],
        dilations=[t.dilation for t in taps],
        group=group,
    )
    return declared(made, g, int(kernel.shape[1]) * group, axes, "turns")


def _through_zeros(
    op: Emitter, g: Value, kernel: gs.Constant, axes: Sequence[Axis], group: int
) -> Value | None:
    """With stride 1 of what arrives with zeros between its elements: no more work than moving these."""
    before = [axis.extent - 1 - axis.begin for axis in axes]
    after = [axis.size + axis.begin - axis.stride * axis.made for axis in axes]
    if min(before) < 0 or min(after) < 0:
        return None
    made = op(
        "Conv",
        _apart(op, g, axes),
        flipped(op, kernel, group),
        pads=[*before, *after],
        dilations=[axis.dilation for axis in axes],
        group=group,
    )
    return declared(made, g, int(kernel.shape[1]) * group, axes, "size")


def _apart(op: Emitter, g: Value, axes: Sequence[Axis]) -> Value:
    """The elements of an image with zeros between them: each repeated, times a pattern of 0 and 1.

    All of it in the layout of convolutions; the pattern comes from a convolution of one channel.
    """
    shape = shape_of(g) or ()
    wide = [axis.stride * axis.made for axis in axes]
    repeats = repeated(op, g, [axis.stride for axis in axes])
    pattern = np.zeros((1, 1, *wide), np.float32)
    pattern[:, :, :: axes[0].stride, :: axes[1].stride] = 1
    rows = op("Expand", pattern, op("Concat", op.dims(g, 0, 1), op.ints([1, *wide]), axis=0))
    chosen = op("Conv", rows, np.ones((int(shape[1]), 1, 1, 1), np.float32))
    rows.shape = [*(g.shape or [])[:1], 1, *wide]
    repeats.shape = chosen.shape = [*(g.shape or [])[:2], *wide]
    made = op("Mul", repeats, chosen)
    made.shape = repeats.shape
    return made


def repeated(op: Emitter, image: Value, times: Sequence[int]) -> Value:
    """Each element of a float32 image so many times along the spatial axes, in the layout of convolutions."""
    scales = np.asarray([1, 1, *times], np.float32)
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
    return op("Resize", image, None, scales, **attributes)


def _taking_turns(
    op: Emitter, parts: Mapping[tuple[int, ...], Value | None], axes: Sequence[Axis]
) -> Value | None:
    """Elements of the parts by turns in each axis, from the last one on."""
    if not axes:
        return parts[()]
    rest = {}
    for place in {key[:-1] for key in parts}:
        rest[place] = _joined(op, [parts[*place, r] for r in range(axes[-1].stride)], len(axes) + 1)
    return _taking_turns(op, rest, axes[:-1])


def _joined(op: Emitter, parts: Sequence[Value | None], axis: int) -> Value | None:
    """The parts by turns along one axis; None where all are zero."""
    some = next((p for p in parts if p is not None), None)
    return some and by_turns(op, [op.zeros_like(some) if p is None else p for p in parts], axis)


def _cropped(op: Emitter, value: Value | None, axes: Sequence[Axis]) -> Value | None:
    """Without what lies behind the last element."""
    for k, axis in enumerate(axes, start=2):
        value = value and cut(op, value, k, axis.size)
    return value


def declared(value: Value, g: Value, channels: int, axes: Sequence[Axis], field: str) -> Value:
    """With its shape: samples as in `g`, and a size of each axis."""
    value.shape = [*(g.shape or [None])[:1], channels, *(getattr(axis, field) for axis in axes)]
    return value


def flipped(op: Emitter, kernel: gs.Constant, group: int) -> Value:
    """The kernel mirrored in space with its channel axes exchanged within each group; the runtime folds it."""
    sizes = [int(d) for d in kernel.shape[2:]]
    every = [Taps(size - 1, 1, size, 0, 1) for size in sizes]
    turned = _backwards(op, kernel, every) if any(size > 1 for size in sizes) else kernel
    return exchanged(op, turned, kernel, sizes, group)


def _backwards(op: Emitter, kernel: Value, taps: Sequence[Taps]) -> Value:
    """The taps of a kernel, the last first."""
    axes = op.ints(range(2, 2 + len(taps)))
    begin, steps = op.ints([t.last for t in taps]), op.ints([-t.step for t in taps])
    end = op.ints([e if (e := t.last - t.count * t.step) >= 0 else START for t in taps])
    return op("Slice", kernel, begin, end, axes, steps)


def exchanged(op: Emitter, turned: Value, kernel: gs.Constant, sizes: Sequence[int], group: int) -> Value:
    """The channel axes of a kernel exchanged within each group."""
    out, per_group = (int(d) for d in kernel.shape[:2])
    if group == 1:
        return op("Transpose", turned, perm=[1, 0, *range(2, 2 + len(sizes))])
    split = op("Reshape", turned, op.ints([group, out // group, per_group, *sizes]))
    swapped = op("Transpose", split, perm=[0, 2, 1, *range(3, 3 + len(sizes))])
    return op("Reshape", swapped, op.ints([group * per_group, out // group, *sizes]))

"""Whether an importance that was written is of the model at hand, and can be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.importance import Importance
from onnx_attribution.values import ModelInfo

if TYPE_CHECKING:
    import onnx

    from onnx_attribution.graph_tools.programs.head import Head


def require_fitting(
    record: Importance, info: ModelInfo, meant: Callable[[str], Sequence[str]], layer: str, file: str
) -> None:
    """Refuses an importance of another file, or of another layer than those that a name has, as `meant` says; one that
    holds no numbers, or zeros only.

    Raises:
        InvalidArgument: the message says which. NotFound: no layer has the name.
    """
    if record.digest and record.digest != info.digest:
        raise InvalidArgument(
            f"{file!r} was measured on another file: its digest is {record.digest[:12]}..., that of the model "
            f"{info.digest[:12]}...; measure it anew with `onnx-attribution importance`",
            file=file,
        )
    if layer != record.layer and record.layer not in (tensors := meant(layer)):
        others = ", ".join(map(repr, tensors))
        raise InvalidArgument(
            f"{file!r} is of the layer {record.layer!r}, not of {layer!r}"
            + f", which is {others}" * (others not in ("", repr(layer))),
            layer=layer,
        )
    finite = np.isfinite(record.alpha).all(axis=1)
    if not finite.all():
        raise InvalidArgument(
            f"{file!r}: the importance at {(~finite).sum()} of {len(finite)} images is not finite, first at image "
            f"{int(finite.argmin())}; measure it without these (--rows)",
            file=file,
        )
    if not record.alpha.any():
        raise InvalidArgument(
            f"{file!r}: no image has an importance other than 0, so that the layer {record.layer!r} says nothing of "
            "the classes; take another layer",
            file=file,
        )


def require_logits(record: Importance, model: onnx.ModelProto, head: Head, file: str) -> None:
    """Refuses an importance of what a softmax or sigmoid makes of the logits.

    Raises:
        InvalidArgument: it is that; it says what would be right.
    """
    from onnx_attribution.graph_tools.programs.class_axis import FINAL

    made = next((node.op_type for node in model.graph.node if record.target in node.output), "")
    if record.target != head.logits and made in FINAL:
        raise InvalidArgument(
            f"{file!r} is of {record.target!r}, which a {made} makes; new classes are made of the importance for the "
            f"logits: measure it with `onnx-attribution importance --target {head.logits}`",
            file=file,
        )

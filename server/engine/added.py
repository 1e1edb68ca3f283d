"""A classifier with further classes, proven by runs: what it knew before, it says to the last bit."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.programs.export import exposed, save
from onnx_attribution.graph_tools.programs.head import Head, flat
from onnx_attribution.server.engine.messages import text_of
from onnx_attribution.values import Array


def require_same(
    old: onnx.ModelProto,
    new: onnx.ModelProto,
    head: Head,
    weight: NDArray[np.floating[Any]],
    bias: NDArray[np.floating[Any]],
    samples: Sequence[tuple[Mapping[str, Array], NDArray[np.float64]]],
) -> None:
    """Runs both in onnxruntime, as anybody would, on some samples, each with the mean features of its head.

    Raises:
        ModelError: the new one does not run, a logit of a class that was there is another number, or that of a new
            class is not the linear map of the features.
    """
    with tempfile.TemporaryDirectory() as folder:
        before = _session(flat(old), head.logits, Path(folder) / "old.onnx")
        after = _session(new, head.logits, Path(folder) / "new.onnx")
        for sample, features in samples:
            was = _logits(before, head, sample)
            now = _logits(after, head, sample)
            kept, added = np.split(now, [head.classes], axis=head.axis)
            if kept.shape != was.shape or kept.tobytes() != was.tobytes():
                raise ModelError(
                    "onnxruntime gives other logits for the classes that were there: its optimiser treats "
                    f"{head.node!r} in another way where a second node reads its features, as in quantised files; "
                    "export the model without fusions or quantisation and add the classes to that",
                    reason=Reason.HEAD_INVALID, node=head.node,
                )  # fmt: skip
            wanted = weight @ features + bias
            size = np.abs(weight) @ np.abs(features) + np.abs(bias) + 1e-30
            if np.any(np.abs(added.reshape(-1).astype(np.float64) - wanted) > _rounding(head) * size):
                raise ModelError(
                    f"the new logits of {head.node!r} are not the linear map of {head.features!r}; this is a bug of "
                    "onnx-attribution",
                    reason=Reason.HEAD_INVALID, node=head.node,
                )  # fmt: skip


def _rounding(head: Head) -> float:
    """How far sums of the head's type may be from those of float64, relative to what is summed."""
    return 2e-2 if head.dtype.itemsize < 4 else 1e-4


def _session(model: onnx.ModelProto, logits: str, path: Path) -> ort.InferenceSession:
    changed = model if logits in {z.name for z in model.graph.output} else exposed(model, [logits])[0]
    save(changed, path)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise ModelError(
            f"onnxruntime does not accept the model: {text_of(error)}", reason=Reason.MODEL_INVALID
        ) from error


def _logits(session: ort.InferenceSession, head: Head, sample: Mapping[str, Array]) -> Array:
    """The logits of one sample, laid out as the file has them."""
    ranks = {one.name: len(one.shape) for one in session.get_inputs()}
    fed = {
        name: array[0] if array.ndim == ranks[name] + 1 else array
        for name, array in sample.items()
        if name in ranks
    }
    try:
        (found,) = session.run([head.logits], fed)
    except Exception as error:  # as above
        raise ModelError(
            f"onnxruntime cannot run the model: {text_of(error)}", reason=Reason.RUNTIME_FAILURE
        ) from error
    return np.asarray(found)

"""Runs ONNX models with onnxruntime, on the CPU or a CUDA device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort

from onnx_attribution.errors import ModelError, Overloaded
from onnx_attribution.values import Array

Provider = Literal["auto", "cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def available_cores() -> int:
    """The cores this process may use: its affinity, limited by the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


class Backend:
    """A provider with its settings; makes sessions."""

    def __init__(self, provider: Provider = "auto", threads: int | None = None) -> None:
        found = ort.get_available_providers()
        if provider == "auto":
            provider = "cuda" if _PROVIDERS["cuda"] in found and _has_device() else "cpu"
        if _PROVIDERS[provider] not in found:
            raise ModelError(
                f"onnxruntime has no provider {provider!r} here; it has: {', '.join(found)}",
                reason="PROVIDER_UNAVAILABLE", provider=provider,
            )  # fmt: skip
        self.provider = provider
        self.threads = threads or available_cores()

    def session(self, model: onnx.ModelProto, *, optimise: bool = True, arena: bool = True) -> Session:
        """A session that holds the model; without `arena` it gives memory back after each run.

        Raises:
            ModelError: onnxruntime does not accept the model.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = arena
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers = [_PROVIDERS[self.provider]]
        if self.provider != "cpu":
            providers.append(_PROVIDERS["cpu"])
        # Pad_Fusion loses the input of a Pad that something else reads too (seen in onnxruntime 1.31.1)
        disabled = {"disabled_optimizers": ["Pad_Fusion"]} if optimise else {}
        try:
            return Session(self._made(model, options, providers, disabled))
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            failure = error
        if optimise:  # some fusions fail where what they fuse is an output too; nothing is fused then
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            with contextlib.suppress(Exception):
                return Session(self._made(model, options, providers, {}))
        raise ModelError(
            f"onnxruntime does not accept the model: {_text(failure)}", reason="MODEL_INVALID"
        ) from failure

    @staticmethod
    def _made(
        model: onnx.ModelProto, options: ort.SessionOptions, providers: list[str], extra: dict[str, list[str]]
    ) -> ort.InferenceSession:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=providers, enable_fallback=0, **extra
        )

    def run(
        self, model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: list[str]
    ) -> dict[str, Array]:
        """Runs a model once; tensors that are not outputs of the file are exposed for it."""
        declared = {o.name for o in model.graph.output}
        missing = [name for name in outputs if name not in declared]
        if missing:
            exposed = onnx.ModelProto()
            exposed.CopyFrom(model)
            exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
            model = exposed
        return self.session(model).run(inputs, outputs)


class Session:
    """A model that is ready to run; may be used from several threads."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.inputs = tuple(x.name for x in session.get_inputs())
        self.outputs = tuple(x.name for x in session.get_outputs())

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """The named outputs (default: all) as arrays.

        Raises:
            ModelError: the run failed. Overloaded: the memory did not suffice.
        """
        names = list(outputs) or list(self.outputs)
        fed = {name: np.asarray(inputs[name], order="C") for name in self.inputs if name in inputs}
        try:
            found = self._session.run(names, fed)
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            text = _text(error)
            if "allocate" in text or "out of memory" in text.lower() or "bad_alloc" in text:
                raise Overloaded("the memory does not suffice", reason="DEVICE_OUT_OF_MEMORY") from error
            raise ModelError(f"onnxruntime cannot run the model: {text}", reason="RUNTIME_FAILURE") from error
        return dict(zip(names, found, strict=True))


def _has_device() -> bool:
    try:
        ort.preload_dlls()
        probe = ort.InferenceSession(_PROBE.SerializeToString(), providers=[_PROVIDERS["cuda"]])
    except Exception:
        return False
    return _PROVIDERS["cuda"] in probe.get_providers()


_PROBE = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> probe (float[1] x) => (float[1] y) { y = Relu(x) }'
)


def _text(error: Exception) -> str:
    """The first line of an onnxruntime message, without the source file it names."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    parts = [word for word in line.split() if not word.startswith("/")]
    return " ".join(parts)[:300]

"""Runs ONNX models with onnxruntime, on the CPU or a CUDA device."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, ModelError, Overloaded, Reason
from onnx_attribution.graph_tools.ir.weights import place, weights_of
from onnx_attribution.graph_tools.programs.device import for_device
from onnx_attribution.graph_tools.programs.footprint import Footprint
from onnx_attribution.values import Array

Provider = Literal["auto", "cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Faults of onnxruntime 1.31 and 1.32. Pad_Fusion loses the input of a Pad if an output is a copy of it, as in
# programs, and in 1.31 turns a Pad by zeros before a MaxPool into one by -inf. After MatmulTransposeFusion has swapped
# a Transpose and a Cast before a MatMul (half precision gets such casts by itself), NchwcTransformer ends the process.
DISABLED = ["Pad_Fusion", "MatmulTransposeFusion"]


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
                reason=Reason.PROVIDER_UNAVAILABLE, provider=provider,
            )  # fmt: skip
        self.provider = provider
        self.threads = threads or available_cores()

    def session(self, model: onnx.ModelProto, *, optimise: bool = True, arena: bool = True) -> Session:
        """A session that holds the model; without `arena` it gives memory back after each run.

        Raises:
            ModelError: onnxruntime does not accept the model.
        """
        disabled = {"disabled_optimizers": DISABLED} if optimise else {}
        try:
            return self._made(model, optimise, arena, disabled)
        except ModelError:
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            failure = error
        if optimise:  # some fusions fail where what they fuse is an output too; nothing is fused then
            with contextlib.suppress(Exception):
                return self._made(model, False, arena, {})
        missing: dict[str, Any] = _missing(failure)
        raise ModelError(
            f"onnxruntime does not accept the model: {_text(failure)}", reason=Reason.MODEL_INVALID, **missing
        ) from failure

    def _made(
        self, model: onnx.ModelProto, optimise: bool, arena: bool, extra: dict[str, list[str]]
    ) -> Session:
        options = self._options(optimise, arena)
        providers = [_PROVIDERS[self.provider]]
        if self.provider != "cpu":
            providers.append(_PROVIDERS["cpu"])
        linked, shared = _linked(model if self.provider == "cpu" else for_device(model), options)
        session = ort.InferenceSession(
            linked.SerializeToString(), options, providers=providers, enable_fallback=0, **extra
        )
        return Session(session, shared)

    def _options(self, optimise: bool, arena: bool) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = arena
        options.enable_mem_pattern = (
            False  # a plan of the second run of one shape is memory beside that of the first
        )
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    def run(
        self,
        model: onnx.ModelProto,
        inputs: Mapping[str, Array],
        outputs: list[str],
        *,
        as_written: bool = False,
    ) -> dict[str, Array]:
        """Runs a model once; tensors that are not outputs of the file are exposed for it."""
        return Trials(self)(model, inputs, outputs, as_written=as_written)


class Trials:
    """Runs models now and then, as `Backend.run` does; keeps the session of the last one, which often comes again.

    So do inputs: arrays that the session was given before are not run anew, and must not be written to.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._last: tuple[bytes, Session] | None = None
        self._runs: list[tuple[dict[str, Array], dict[str, Array]]] = []
        self._written: tuple[bytes, Session] | None = None

    def __call__(
        self,
        model: onnx.ModelProto,
        inputs: Mapping[str, Array],
        outputs: list[str],
        *,
        as_written: bool = False,
    ) -> dict[str, Array]:
        if as_written:
            return self._run_as_written(model, inputs, outputs)
        declared = {o.name for o in model.graph.output}
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        exposed.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs if n not in declared)
        bare = onnx.ModelProto()
        bare.CopyFrom(exposed)
        del bare.graph.value_info[:]  # to know more of types makes no other model
        key = bare.SerializeToString()
        if self._last is None or self._last[0] != key:
            self._last, self._runs = None, []  # before the next one takes its memory
            self._last = (key, self._backend.session(exposed))
        for given, found in self._runs:
            same = given.keys() == inputs.keys() and all(given[n] is inputs[n] for n in given)
            if same and found.keys() == set(outputs):
                return found
        found = self._last[1].run(inputs, outputs)
        self._runs.append((dict(inputs), found))
        return found

    def _run_as_written(
        self, model: onnx.ModelProto, inputs: Mapping[str, Array], outputs: list[str]
    ) -> dict[str, Array]:
        key = model.SerializeToString()
        if self._written is None or self._written[0] != key:
            self._written = None
            self._written = (key, self._backend.session(model, optimise=False))
        return self._written[1].run(inputs, outputs)


def _linked(
    model: onnx.ModelProto, options: ort.SessionOptions
) -> tuple[onnx.ModelProto, list[NDArray[np.uint8]]]:
    """The model with what it holds apart within onnxruntime's reach, and what has to live as long as its session.

    Each weight is given as a file in memory, which onnxruntime reads where it is.
    """
    held = weights_of(model.graph.initializer)
    if not held:
        return model, []
    linked = onnx.ModelProto()
    linked.CopyFrom(model)
    names = {name: f"memory/{k}" for k, name in enumerate(held)}
    for tensor in linked.graph.initializer:
        if tensor.name in held:
            place(tensor, names[tensor.name], 0, held[tensor.name].data.nbytes)
    shared = [h.data for h in held.values()]
    options.add_external_initializers_from_files_in_memory(
        list(names.values()), shared, [data.nbytes for data in shared]
    )
    options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
    # packed weights are a second copy of most of them; without, a gradient of BERT takes 8 to 10 % longer
    options.add_session_config_entry("session.disable_prepacking", "1")
    return linked, shared


class Session:
    """A model that is ready to run; may be used from several threads."""

    def __init__(self, session: ort.InferenceSession, shared: Sequence[NDArray[np.uint8]] = ()) -> None:
        self._shared = shared  # weights that onnxruntime reads without owning them
        self._session = session
        self.inputs = tuple(x.name for x in session.get_inputs())
        self.outputs = tuple(x.name for x in session.get_outputs())
        self.footprint: Footprint | None = None  # of programs that run many rows at once

    def described(self, output: str) -> onnx.ValueInfoProto:
        """The type of an output and what is known of its shape, as onnxruntime infers them."""
        found = next(z for z in self._session.get_outputs() if z.name == output)
        kind = re.fullmatch(r"tensor\((\w+)\)", found.type)
        if kind is None:
            raise InvalidArgument(
                f"{output!r} is {found.type} and no tensor; name a tensor before it",
                reason=Reason.LAYER_INVALID,
                tensor=output,
            )
        number = onnx.TensorProto.DataType.Value(kind[1].upper())
        return onnx.helper.make_tensor_value_info(output, number, found.shape or None)  # [] is no shape, too

    def assignments(self) -> list[tuple[str, str, str, str]]:
        """Provider, domain, operator and name of each node, in a session that was told to record them."""
        return [
            (part.ep_name, node.domain, node.op_type, node.name)
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]

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
            if _MEMORY.search(str(error)):
                raise Overloaded("the memory does not suffice", reason=Reason.DEVICE_OUT_OF_MEMORY) from error
            text = _text(error)
            raise ModelError(
                f"onnxruntime cannot run the model: {text}", reason=Reason.RUNTIME_FAILURE, detail=text
            ) from error
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


_MEMORY = re.compile(
    r"failed to allocate|bad_?alloc|alloc_failed|out of memory|available memory of", re.IGNORECASE
)
_NODE = re.compile(
    r".*Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: "
)
_PLACE = re.compile(
    r"\S+\.(?:cc|cpp|h|cuh?):\d+ (?:(?:[\w:<>*&]+ ){0,3}?[\w:~<>]+\(.*?\)(?: const)?(?: \[with [^\]]*\])? |\w+ )?"
    r"(?:.* was false\. )?"
)


_MISSING = re.compile(
    r"Fatal error: (?P<domain>[\w.-]*):(?P<operator>\w+)\(-?\d+\) is not a registered"
    r"|No Op registered for (?P<standard>\w+) with"
    r"|Could not find an implementation for (?P<kernel>[\w.]+)\(\d+\) node with name '(?P<node>[^']+)'"
)


def _missing(error: Exception) -> dict[str, str]:
    """The operator that onnxruntime does not have, and the node where it is one node that it cannot run."""
    found = _MISSING.search(str(error))
    if found is None:
        return {}
    name = found["operator"] or found["standard"] or found["kernel"]
    return {"domain": found["domain"] or "", "operator": name, "node": found["node"] or ""}


def _text(error: Exception) -> str:
    """The first line of an onnxruntime message: the node that failed, and why, without places in its source."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    node = _NODE.match(line)
    if node is not None:  # the innermost, where graphs are nested
        line = f"{node[1]} (node {node[2]!r}): {line[node.end() :]}"
    plain = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", _PLACE.sub("", line))
    parts = [word for word in plain.split() if not word.startswith("/")]
    return " ".join(parts)[:300]

"""Runs ONNX models with onnxruntime, on the CPU or a CUDA device."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_attribution.errors import AttributionError, InvalidArgument, ModelError, Overloaded, Reason
from onnx_attribution.graph_tools.programs.device import for_device
from onnx_attribution.graph_tools.programs.footprint import Footprint
from onnx_attribution.server.engine.interrupt import heeded
from onnx_attribution.server.engine.messages import is_of_memory, missing, text_of
from onnx_attribution.server.engine.observe import Observer, Silent
from onnx_attribution.server.engine.weights import linked_to
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


class Devices:
    """The CUDA devices of a backend, or the one place that the CPU is, and how many runs each has."""

    def __init__(self, kind: str = "cpu", numbers: Sequence[int] = (0,)) -> None:
        self.kind = kind
        self.numbers = tuple(numbers)
        self._running = [0] * len(self.numbers)
        self._lock = Lock()

    def of(self, place: int) -> tuple[str, int]:
        """What onnxruntime calls the device at a place."""
        return self.kind, self.numbers[place]

    @contextlib.contextmanager
    def taken(self, place: int | None = None) -> Iterator[int]:
        """The place of the device that a run goes to: this one, or the one with the fewest runs."""
        with self._lock:
            place = min(range(len(self._running)), key=self._running.__getitem__) if place is None else place
            self._running[place] += 1
        try:
            yield place
        finally:
            with self._lock:
                self._running[place] -= 1


class Backend:
    """A provider with its settings; makes sessions.

    On CUDA, `devices` are the numbers of those that runs are spread over (default: the first), and `tf32` lets float32
    products round their factors to 10 bits, which is faster and less exact.
    """

    def __init__(
        self,
        provider: Provider = "auto",
        threads: int | None = None,
        *,
        tf32: bool = False,
        devices: Sequence[int] = (),
        observer: Observer | None = None,
    ) -> None:
        found = ort.get_available_providers()
        if provider == "auto":
            provider = "cuda" if _PROVIDERS["cuda"] in found and _has_device() else "cpu"
        if _PROVIDERS[provider] not in found:
            raise ModelError(
                f"onnxruntime has no provider {provider!r} here; it has: {', '.join(found)}",
                reason=Reason.PROVIDER_UNAVAILABLE, provider=provider,
            )  # fmt: skip
        if len(set(devices)) < len(devices) or min(devices, default=0) < 0:
            raise InvalidArgument(f"devices are numbered from 0, each named once: {list(devices)}")
        if devices and provider == "cpu":
            raise InvalidArgument(f"the devices {list(devices)} are of CUDA; the provider is the CPU")
        absent = [number for number in devices if not _has_device(number)]
        if absent:
            raise ModelError(
                f"there is no CUDA device {absent[0]}", reason=Reason.PROVIDER_UNAVAILABLE, provider=provider
            )
        self.provider = provider
        self.observer = observer or Silent()
        self.threads = threads or available_cores()
        self.tf32 = tf32
        self.devices = Devices(provider, devices or (0,))

    def session(
        self, model: onnx.ModelProto, *, optimise: bool = True, arena: bool = True, alone: bool = False
    ) -> Session:
        """A session that holds the model; without `arena` it gives memory back after each run, `alone` it computes in
        the thread that asks.

        Raises:
            ModelError: onnxruntime does not accept the model.
        """
        disabled = {"disabled_optimizers": DISABLED} if optimise else {}
        try:
            return self._made(model, optimise, arena, alone, disabled)
        except ModelError:
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            failure = error
        if optimise:  # some fusions fail where what they fuse is an output too; nothing is fused then
            with contextlib.suppress(Exception):
                return self._made(model, False, arena, alone, {})
        unknown: dict[str, Any] = missing(failure)
        raise ModelError(
            f"onnxruntime does not accept the model: {text_of(failure)}",
            reason=Reason.MODEL_INVALID,
            **unknown,
        ) from failure

    def _made(
        self, model: onnx.ModelProto, optimise: bool, arena: bool, alone: bool, extra: dict[str, list[str]]
    ) -> Session:
        options = self._options(optimise, arena)
        if alone:
            options.intra_op_num_threads = 1
        linked, shared = linked_to(model if self.provider == "cpu" else for_device(model), options)
        text = linked.SerializeToString()

        def make(place: int) -> ort.InferenceSession:
            return ort.InferenceSession(
                text, options, providers=self._providers(place), enable_fallback=0, **extra
            )

        return Session(make(0), shared, self.devices, make)

    def _providers(self, place: int) -> list[str | tuple[str, dict[str, str]]]:
        if self.provider == "cpu":
            return [_PROVIDERS["cpu"]]
        chosen = {"device_id": str(self.devices.numbers[place]), "use_tf32": str(int(self.tf32))}
        return [(_PROVIDERS[self.provider], chosen), _PROVIDERS["cpu"]]

    def _options(self, optimise: bool, arena: bool) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = arena
        options.enable_mem_pattern = (
            False  # a plan of the second run of one shape is memory beside that of the first
        )
        # else threads wait busily for about 40 ms after each run, beside those of the next session
        options.add_session_config_entry("session.force_spinning_stop", "1")
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


class Session:
    """A model that is ready to run; may be used from several threads.

    With several devices there is a session for each, made when the first run goes there.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        shared: Sequence[NDArray[np.uint8]] = (),
        devices: Devices | None = None,
        make: Callable[[int], ort.InferenceSession] | None = None,
    ) -> None:
        self._shared = shared  # weights that onnxruntime reads without owning them
        self._session = session
        self._devices = devices or Devices()
        self._others: dict[int, ort.InferenceSession] = {}
        self._make = make if len(self._devices.numbers) > 1 else None  # it holds the model
        self._making = Lock()
        self.inputs = tuple(x.name for x in session.get_inputs())
        self.outputs = tuple(x.name for x in session.get_outputs())
        self.footprint: Footprint | None = None  # of programs that run many rows at once

    @contextlib.contextmanager
    def _run_on(
        self, place: int | None = None
    ) -> Iterator[tuple[ort.InferenceSession, int, ort.RunOptions | None]]:
        """The session for a run, its place and options; failures become ModelError and Overloaded."""
        with self._devices.taken(place) as taken:
            try:
                with heeded() as options:
                    yield self._at(taken), taken, options
            except AttributionError:  # interrupted
                raise
            except Exception as error:  # onnxruntime raises a dozen unrelated types
                if is_of_memory(error):
                    raise Overloaded(
                        f"the memory does not suffice: {text_of(error)}", reason=Reason.DEVICE_OUT_OF_MEMORY
                    ) from error
                text = text_of(error)
                raise ModelError(
                    f"onnxruntime cannot run the model: {text}", reason=Reason.RUNTIME_FAILURE, detail=text
                ) from error

    def _at(self, place: int) -> ort.InferenceSession:
        if place == 0 or self._make is None:
            return self._session
        with self._making:
            if place not in self._others:
                self._others[place] = self._make(place)
            return self._others[place]

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

    def run(self, inputs: Mapping[str, Array | Held], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """The named outputs (default: all) as arrays.

        Raises:
            ModelError: the run failed. Overloaded: the memory did not suffice.
        """
        given = {n: held.on_host if isinstance(held, Held) else held for n, held in inputs.items()}
        if any(array is None for array in given.values()):
            return self.run_keeping(inputs, (), outputs)[0]
        names = list(outputs) or list(self.outputs)
        fed = {name: np.asarray(given[name], order="C") for name in self.inputs if name in given}
        with self._run_on() as (session, _, options):
            found = session.run(names, fed, options)
        return dict(zip(names, found, strict=True))

    def hold(self, inputs: Mapping[str, Array], also: Collection[str] = ()) -> dict[str, Held]:
        """Inputs that many runs share, copied to a device once; the arrays must not be written to after. Those that
        this session does not read are left out, but for what others read (`also`)."""
        with self._run_on() as (_, place, _options):
            arrays = {
                name: np.asarray(array, order="C")
                for name, array in inputs.items()
                if name in self.inputs or name in also
            }
            device = self._devices.of(place)
            return {
                name: Held(
                    ort.OrtValue.ortvalue_from_numpy(array, *device),
                    place,
                    array if device[0] == "cpu" else None,
                )
                for name, array in arrays.items()
            }

    def run_keeping(
        self, inputs: Mapping[str, Array | Held], keep: Sequence[str], outputs: Sequence[str] = ()
    ) -> tuple[dict[str, Array], dict[str, Held]]:
        """The named outputs (default: all that are not kept) as arrays, and those that stay on the device.

        A run goes to the device of what is held for it, and copies nothing but its other inputs and the arrays.

        Raises:
            ModelError: the run failed. Overloaded: the memory did not suffice.
        """
        names = list(outputs) or [name for name in self.outputs if name not in keep]
        places = {given.place for given in inputs.values() if isinstance(given, Held)}
        assert len(places) < 2, "what one run reads is held on several devices"
        with self._run_on(*places) as (session, place, options):
            bound = session.io_binding()
            for name in self.inputs:
                given = inputs.get(name)
                if isinstance(given, Held):
                    bound.bind_ortvalue_input(name, given.value)
                elif given is not None:
                    bound.bind_cpu_input(name, np.asarray(given, order="C"))
            for name in names:
                bound.bind_output(name)
            for name in keep:
                bound.bind_output(name, *self._devices.of(place))
            bound.synchronize_inputs()
            session.run_with_iobinding(bound, options)
            bound.synchronize_outputs()
            values = dict(zip((*names, *keep), bound.get_outputs(), strict=True))
            found = {name: values[name].numpy() for name in names}
        return found, {name: Held(values[name], place) for name in keep}


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor that stays on the device where it was made, for runs of any session there.

    `on_host` is the array that it is, where the device is the CPU: a run that keeps nothing is quicker unbound.
    """

    value: ort.OrtValue
    place: int
    on_host: Array | None = None

    def __len__(self) -> int:
        return int(self.value.shape()[0])

    def array(self) -> Array:
        """A copy on the host."""
        found: Array = self.value.numpy()
        return found


def _has_device(number: int = 0) -> bool:
    try:
        ort.preload_dlls()
        chosen = (_PROVIDERS["cuda"], {"device_id": str(number)})
        probe = ort.InferenceSession(_PROBE.SerializeToString(), providers=[chosen])
    except Exception:
        return False
    return _PROVIDERS["cuda"] in probe.get_providers()


_PROBE = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> probe (float[1] x) => (float[1] y) { y = Relu(x) }'
)

"""The engine: models by name, questions about them, answers. Embedded it is all there is; the server wraps it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from threading import Lock
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_attribution.errors import (
    AttributionError,
    Cancelled,
    InvalidArgument,
    ModelError,
    NotDifferentiable,
    NotFound,
    NotReady,
)
from onnx_attribution.graph_tools.ir.emit import element_type
from onnx_attribution.graph_tools.read.load import ModelSource
from onnx_attribution.graph_tools.select.cuts import is_joint_cut
from onnx_attribution.graph_tools.select.names import close_names
from onnx_attribution.server.engine.answer.warnings import Answered, warnings_of
from onnx_attribution.server.engine.backend import Backend, Provider
from onnx_attribution.server.engine.methods import deeplift, occlusion
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.request.inputs import checked_inputs, join_samples, split_samples
from onnx_attribution.server.engine.request.resolve import Question, ask, check_request
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.server.engine.rows.plan import Plan, conductance_plan, count_rows, mean_plan
from onnx_attribution.values import (
    DEEPLIFT_METHODS,
    GRADIENT_METHODS,
    PATH_METHODS,
    Accepted,
    Array,
    Attribution,
    AttributionRequest,
    Completed,
    Event,
    LayerAttribution,
    LayerInfo,
    ModelInfo,
    Progress,
    ResolvedTarget,
    Revision,
    StopReason,
)

Stop = Callable[[], StopReason | Literal["cancelled"] | None]
MEMORY = 2 << 30
PATIENCE = (0.5, 10.0)  # seconds beyond the time of the answer for a search of what would work, and at most
EXACT_PLAN = 20_000  # terms up to which the rows of a plan are counted before it runs


@dataclass
class _Entry:
    source: ModelSource
    version: int
    axes: Mapping[str, int | None]
    shapes: Mapping[str, tuple[int, ...]]
    given: Mapping[str, Array]
    lock: Lock
    model: LoadedModel | None = None
    failure: tuple[str, str] | None = (
        None  # message and reason; a kept exception would keep every caller's frames
    )


class Engine:
    """Attributions in this process. Thread-safe; `close` it, or use it in a `with` block.

    `provider` is "cpu", "cuda" or "auto" (CUDA where a device is there); `threads` are those of one run (default: the
    cores this process may use); `memory_budget` bounds the bytes of the rows of one run.
    """

    def __init__(
        self, *, provider: Provider = "auto", threads: int | None = None, memory_budget: int = MEMORY
    ) -> None:
        self._backend = Backend(provider, threads)
        self._memory = memory_budget
        self._entries: dict[str, dict[int, _Entry]] = {}
        self._lock = Lock()
        self._closed = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def provider(self) -> str:
        """The provider that runs the models: "cpu" or "cuda"."""
        return self._backend.provider

    def add(
        self,
        name: str,
        model: ModelSource,
        *,
        version: int = 1,
        batch_axes: Mapping[str, int | None] | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        example: Mapping[str, Array] | None = None,
    ) -> None:
        """Makes a model known under a name; it is read at first use.

        `batch_axes` states the batch axis of inputs (None: shared by all samples) where the file leaves it in doubt;
        `shapes` and `example` give inputs on which the model runs, where random ones do not suffice.
        """
        if not name or "/" in name:
            raise InvalidArgument(
                f"a model cannot be called {name!r}; a name is not empty and holds no slash", name=name
            )
        if not isinstance(model, str | PathLike | bytes | onnx.ModelProto):
            raise InvalidArgument(
                f"the model {name!r} is a path, bytes or a ModelProto, not {type(model).__name__}", name=name
            )
        entry = _Entry(
            model, version, dict(batch_axes or {}), dict(shapes or {}), dict(example or {}), Lock()
        )
        with self._lock:
            self._entries.setdefault(name, {})[version] = entry

    def models(self) -> list[ModelInfo]:
        """What is known of every model, without loading any."""
        with self._lock:
            entries = [(name, e) for name, versions in self._entries.items() for e in versions.values()]
        return [
            self._info(name, entry)
            for name, entry in sorted(entries, key=lambda pair: (pair[0], pair[1].version))
        ]

    def info(self, model: str) -> ModelInfo:
        """What is known of a model, which is loaded for it.

        Raises:
            NotFound: no such model. ModelError: it cannot be loaded.
        """
        name, entry = self._entry(model)
        self._loaded(name, entry)
        return self._info(name, entry)

    def layers(self, model: str, pattern: str = "") -> list[LayerInfo]:
        """The layers between the default sources and the default target whose name, node or operator fits."""
        return self._model(model).layers(pattern)

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """The outputs, or any tensors by name, at the inputs."""
        loaded = self._model(model).fitting(inputs)
        tensors = [x.name for x in loaded.outputs if x.shape is not None]
        names = [loaded.tensor(name) for name in outputs] or tensors
        checked = checked_inputs(loaded, inputs)
        samples = split_samples(loaded, checked)
        if loaded.network.batch != "single":
            return forward(loaded, join_samples(loaded, samples), names)
        found = [forward(loaded, sample, names) for sample in samples]
        if len(found) == 1 and all(checked[x.name].ndim == len(x.shape or ()) for x in loaded.inputs):
            return found[0]
        places = loaded.places_of(names)
        return {
            n: np.stack([f[n] for f in found])
            if (place := places[n]) is None
            else np.concatenate([f[n] for f in found], axis=place.axis)
            for n in names
        }

    def attribute(self, request: AttributionRequest) -> Attribution:
        """The answer to a request: the best revision where it asks for a tolerance.

        Raises:
            InvalidArgument, NotFound, ModelError, NotDifferentiable: the message names what stands in the way.
        """
        revisions: dict[int, Attribution] = {}
        best = 0
        for event in self.stream(request):
            if isinstance(event, Revision):
                revisions[event.number] = event.attribution
            elif isinstance(event, Completed):
                best = event.best_revision
        return revisions[best]

    def stream(self, request: AttributionRequest, *, stop: Stop | None = None) -> Iterator[Event]:
        """The answer as it comes: Accepted, Progress between runs, at least one Revision, Completed.

        `stop` is asked between runs: a reason ends the stream with the best revision, once there is one; "cancelled"
        raises Cancelled at once.
        """
        try:
            yield from self._events(request, stop)
        except NotDifferentiable as error:
            raise _with_way_out(error) from error

    def _events(self, request: AttributionRequest, stop: Stop | None) -> Iterator[Event]:
        started = time.monotonic()
        check_request(request)
        loaded = self._model(request.model).fitting(request.inputs)
        question = ask(loaded, request)
        asked = stop or (lambda: None)
        best, best_error, spent = 0, np.inf, question.evaluations
        reason: StopReason = "max_steps" if request.method in PATH_METHODS else "exact"
        remedies: dict[int, str] = {}
        for number, (steps, plan) in enumerate(_plans(request)):
            planned = spent + self._planned(loaded, question, plan)
            if number == 0:
                yield Accepted(
                    request.request_id,
                    loaded.digest,
                    loaded.network.batch,
                    question.choice.target,
                    question.choice.layers,
                    planned,
                )
            runs = self._runs(loaded, question, plan)
            done, wish = spent, None
            while wish is None or number == 0:
                try:
                    done += next(runs)
                except StopIteration as end:
                    sums: evaluate.Sums = end.value
                    break
                yield Progress(done, max(planned, done), time.monotonic() - started)
                wish = asked()
                if wish == "cancelled":
                    raise Cancelled("the request was cancelled")
            else:  # asked to stop with a revision in hand
                reason = wish  # type: ignore[assignment]
                break
            spent += sums.evaluations
            answer = self._answer(loaded, question, sums, spent, steps, started, asked, remedies)
            errors = np.maximum(_errors(answer), evaluate.missed(question, sums))
            error = float(errors[~np.isnan(errors)].max(initial=0)) if not np.isnan(errors).all() else np.inf
            if number == 0 or error < best_error:
                best, best_error = number, error
            yield Revision(number, answer)
            if request.tolerance is not None and plan is not None and (errors <= request.tolerance).all():
                reason = "converged"
                break
            wish = asked()
            if wish == "cancelled":
                raise Cancelled("the request was cancelled")
            if wish is not None:
                reason = wish
                break
        yield Completed(reason, best)

    def close(self) -> None:
        """Drops every session; later calls are refused."""
        with self._lock:
            self._closed = True
            loaded = [e.model for versions in self._entries.values() for e in versions.values()]
        for model in loaded:
            if model is not None:
                model.close()

    # --- inside

    def _runs(self, loaded: LoadedModel, question: Question, plan: Plan | None) -> evaluate.Evaluation:
        """The runs of one revision."""
        method = question.request.method
        if method == "occlusion":
            return (yield from occlusion.occlusion(loaded, question, self._memory))
        if plan is None:
            compute = deeplift.deeplift if method in DEEPLIFT_METHODS else evaluate.gradient
            return (yield from compute(loaded, question, self._memory))
        return (yield from evaluate.path_sums(loaded, question, plan, self._memory))

    def _planned(self, loaded: LoadedModel, question: Question, plan: Plan | None) -> int:
        if question.request.method == "occlusion":
            return len(occlusion.rows_of(question))
        if plan is None and question.request.method in DEEPLIFT_METHODS:
            return deeplift.deeplift_evaluations(loaded, question, self._memory)
        if plan is None:
            return question.count
        if not question.together or len(plan.fine) * question.count > EXACT_PLAN:
            return len(plan.alphas) * question.count  # rows that two runs need are counted as they come
        return count_rows(plan, question.count, evaluate.row_limit(loaded, question, self._memory))

    def _answer(
        self,
        loaded: LoadedModel,
        question: Question,
        sums: evaluate.Sums,
        spent: int,
        steps: int,
        started: float,
        stop: Stop,
        remedies: dict[int, str],
    ) -> Attribution:
        asked, every = question, sums
        question, sums = evaluate.averaged(question, sums)
        tensors = loaded.graph.tensors()
        sums_to_change = question.request.multiply_by_inputs and question.request.method not in (
            *GRADIENT_METHODS,
            "occlusion",
        )
        layers: dict[str, LayerAttribution] = {}
        with np.errstate(over="ignore", invalid="ignore"):  # the notes say what is not finite
            change = question.value - question.baseline_value
            for name, values in sums.fine.items():
                total = per_sample(values)
                none = np.full_like(total, np.nan)
                error = per_sample(np.abs(values - sums.coarse[name])) if name in sums.coarse else none
                residual = total - change if sums_to_change else none
                if question.cuts[name]:  # no L1 error is less than what the sum misses
                    error = np.where(np.isnan(error), error, np.fmax(error, np.abs(residual)))
                dtype = element_type(tensors[name])
                layers[name] = LayerAttribution(
                    name,
                    values.astype(dtype if dtype.kind == "f" and dtype.itemsize >= 4 else np.float32),
                    total,
                    residual,
                    error,
                    question.cuts[name],
                    sums.spread.get(name, none),
                )
            joint = None
            if sums_to_change and is_joint_cut(
                list(loaded.graph.nodes), question.choice.sources, question.choice.target, list(layers)
            ):
                joint = np.sum([layer.sum for layer in layers.values()], axis=0) - change
            now = time.monotonic()
            until = now + min(now - started + PATIENCE[0], PATIENCE[1])
            answered = Answered(
                loaded, asked, every, question, sums, layers, joint, steps, remedies,
                lambda: time.monotonic() < until and stop() is None,
            )  # fmt: skip
            warnings = question.warnings + tuple(warnings_of(answered, self._memory))
        return Attribution(
            question.request.method,
            loaded.network.batch,
            ResolvedTarget(question.choice.target, question.index, question.value, question.baseline_value),
            layers,
            spent,
            steps,
            time.monotonic() - started,
            loaded.digest,
            self.provider,
            warnings,
            joint,
        )

    def _entry(self, model: str) -> tuple[str, _Entry]:
        """The entry of `name` or `name/versions/n`; the newest version where none is named."""
        name, _, version = model.removeprefix("models/").partition("/versions/")
        with self._lock:
            if self._closed:
                raise NotReady("the engine is closed", reason="ENGINE_CLOSED")
            versions = self._entries.get(name)
            if not versions:
                close = ", ".join(close_names(name, list(self._entries)))
                known = f"close names: {close}" if close else f"there are {len(self._entries)} models"
                raise NotFound(
                    f"no model {name!r}; {known}", reason="MODEL_NOT_FOUND", model=name, close=close
                )
            if not version:
                return name, versions[max(versions)]
            if not version.isdigit() or int(version) not in versions:
                listed = ", ".join(map(str, sorted(versions)))
                raise NotFound(
                    f"model {name!r} has no version {version!r}; it has: {listed}",
                    reason="VERSION_NOT_FOUND",
                    model=name,
                )
            return name, versions[int(version)]

    def _model(self, model: str) -> LoadedModel:
        return self._loaded(*self._entry(model))

    def _loaded(self, name: str, entry: _Entry) -> LoadedModel:
        with entry.lock:
            if entry.failure is not None:
                raise ModelError(entry.failure[0], reason=entry.failure[1], model=name)
            if entry.model is None:
                try:
                    entry.model = LoadedModel(
                        entry.source, self._backend, entry.axes, entry.shapes, entry.given
                    )
                except (ModelError, NotDifferentiable) as error:
                    reason = error.reason if error.reason != "RUNTIME_FAILURE" else "MODEL_LOAD_FAILED"
                    entry.failure = (f"model {name!r} cannot be loaded: {error}", reason)
                    raise ModelError(entry.failure[0], reason=reason, model=name) from error
            return entry.model

    def _info(self, name: str, entry: _Entry) -> ModelInfo:
        if entry.failure is not None:
            return ModelInfo(name, entry.version, "FAILED", entry.failure[0])
        if entry.model is None:
            return ModelInfo(name, entry.version, "UNLOADED")
        model = entry.model
        try:
            sources = model.sources((), model.first_target())
        except AttributionError:
            sources = ()
        return ModelInfo(
            name,
            entry.version,
            "READY",
            "",
            model.digest,
            model.opset,
            model.network.batch,
            sources,
            model.inputs,
            model.outputs,
        )


def _with_way_out(error: NotDifferentiable) -> NotDifferentiable:
    """The refusal with the method that needs no derivative, unless there is no way to the target at all."""
    if error.reason == "NO_PATH":
        return error
    return NotDifferentiable(
        f"{error}; the method occlusion needs no derivative",
        reason=error.reason,
        violations=error.violations,
        **error.metadata,
    )


def _plans(request: AttributionRequest) -> Iterator[tuple[int, Plan | None]]:
    """Steps and plan of each revision: one, or with a tolerance as many as doublings fit."""
    if request.method not in PATH_METHODS:
        yield 0, None
        return
    make = conductance_plan if request.method == "neuron_ig" else mean_plan
    steps = request.steps
    yield steps, make(request.quadrature, steps)
    while request.tolerance is not None and steps < request.max_steps:
        steps = min(2 * steps, request.max_steps)
        yield steps, make(request.quadrature, steps)


def _errors(answer: Attribution) -> NDArray[np.float64]:
    """Per sample the largest error of any layer, and of all layers where they are a cut together, relative to the L1
    norm of the attributions; NaN for a sample whose attributions are not finite."""
    norms = [per_sample(np.abs(layer.values.astype(np.float64))) for layer in answer.layers.values()]
    pairs = [(layer.error_estimate, norm) for layer, norm in zip(answer.layers.values(), norms, strict=True)]
    if answer.joint_residual is not None:
        pairs.append((np.abs(answer.joint_residual), np.sum(norms, axis=0)))
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = [error / np.maximum(norm, 1e-30) for error, norm in pairs]
    errors = np.max([np.nan_to_num(ratio, nan=np.inf) for ratio in ratios], axis=0)
    return np.asarray(np.where(np.isfinite(np.sum(norms, axis=0)), errors, np.nan))

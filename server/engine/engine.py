"""The engine: models by name, questions about them, answers. Embedded it is all there is; the server wraps it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from onnx_attribution.errors import AttributionError, NotDifferentiable, NotFound, Reason
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.programs.randomise import Draw, Order, stages
from onnx_attribution.graph_tools.read.load import ModelSource
from onnx_attribution.graph_tools.select.links import links_between
from onnx_attribution.importance import Importance, Measuring, begin
from onnx_attribution.interventions import Intervened, Intervention, InterventionRequest
from onnx_attribution.methods import MethodInfo
from onnx_attribution.server.engine.answer.refine import Stop, events
from onnx_attribution.server.engine.backend import Backend, Provider
from onnx_attribution.server.engine.methods.ablation import intervened
from onnx_attribution.server.engine.models.read import Stated
from onnx_attribution.server.engine.models.registry import Registry
from onnx_attribution.server.engine.observe import Observer
from onnx_attribution.server.engine.recipe import infos, recipe_of, without_derivatives
from onnx_attribution.server.engine.request.resolve import resolve
from onnx_attribution.server.engine.request.samples import predict
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    ChannelSums,
    Event,
    LayerInfo,
    ModelInfo,
    Revision,
    Selection,
    Target,
)

MEMORY = 2 << 30


@dataclass(frozen=True)
class Randomised:
    """A model of the engine, by its `name`, with the blocks of parameters `redrawn` drawn anew."""

    name: str
    redrawn: tuple[str, ...]

    @property
    def block(self) -> str:
        """The block that was drawn anew last."""
        return self.redrawn[-1]


class Engine:
    """Attributions in this process. Thread-safe; `close` it, or use it in a `with` block.

    `provider` is "cpu", "cuda" or "auto" (CUDA where a device is there); `threads` are those of one run (default: the
    cores this process may use); `memory_budget` bounds the bytes of the rows of one run. `tf32` and `devices` are for
    CUDA: whether float32 may be rounded for speed, and the devices that runs are spread over. At most `most_loaded`
    models (0: all) stay loaded: those that were used least lately are closed, and loaded again when asked for.
    `observer` is told of each run.
    """

    def __init__(
        self,
        *,
        provider: Provider = "auto",
        threads: int | None = None,
        memory_budget: int = MEMORY,
        tf32: bool = False,
        devices: Sequence[int] = (),
        most_loaded: int = 0,
        observer: Observer | None = None,
    ) -> None:
        self._backend = Backend(provider, threads, tf32=tf32, devices=devices, observer=observer)
        self._memory = memory_budget
        self._models = Registry(self._backend, most_loaded)

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
        card: str | PathLike[str] | None = None,
    ) -> None:
        """Makes a model known under a name; it is read at first use.

        A model of the same name and version is replaced, and closed when no request runs on it any more.

        `batch_axes` states the batch axis of inputs (None: shared by all samples) where the file leaves it in doubt;
        `shapes` and `example` give inputs on which the model runs, where random ones do not suffice. `card` is the
        small file that says what the model is; by default the one beside it, NAME.toml beside NAME.onnx.
        """
        self._models.add(
            name,
            version,
            model,
            Stated(
                dict(batch_axes or {}),
                dict(shapes or {}),
                dict(example or {}),
                None if card is None else Path(card),
            ),
        )

    def load(self, name: str, model: ModelSource, *, version: int = 1) -> ModelInfo:
        """Loads a model and runs it once before it is known under a name, in the place of the one that was.

        Raises:
            ModelError: it cannot be loaded or run. What was there before stays; the failure of a first one is known.
        """
        return self._models.renew(name, version, model, Stated())

    def remove(self, name: str, version: int | None = None, *, wait: float = 0) -> bool:
        """Drops a version of a model, or all of them; each is closed when no request runs on it any more.

        Returns whether they are closed, for which it waits so many seconds at most.

        Raises:
            NotFound: there is no such model or version.
        """
        return self._models.remove(name, version)(wait)

    @contextmanager
    def randomised(
        self,
        model: str,
        *,
        order: Order = "cascading",
        draw: Draw = "he_normal",
        seed: int = 0,
        toward: Sequence[str] = (),
        most: int | None = None,
    ) -> Iterator[Iterator[Randomised]]:
        """The model with its parameters drawn anew block by block, as `graph_tools.programs.randomise` says.

            with engine.randomised("digits") as stages:
                for stage in stages:
                    engine.attribute(AttributionRequest(stage.name, inputs, "gradient", target=7))

        Each stage is a model of this engine until the next one is asked for or the block is left.

        Raises:
            InvalidArgument: quantised weights, which need `draw="shuffle"`. ModelError: there are no parameters, or
                the file has changed since it was loaded.
        """
        weights = Weights()
        with self._models.use(model) as loaded:
            file, stated = loaded.file(weights), loaded.stated
            wanted = [name for name in toward if name in loaded.tensors]
        made = stages(file, order, draw, seed=seed, toward=wanted, most=most)
        known: list[str] = []

        def each() -> Iterator[Randomised]:
            for number, stage in enumerate(made):
                self._forget(known)
                name = f"{model.replace('/', '-')}~{order}-{draw}-{seed}-{id(known):x}-{number}"
                self._models.add(name, 1, stage.model, stated)
                known.append(name)
                yield Randomised(name, stage.redrawn)

        try:
            yield each()
        finally:
            self._forget(known)

    def _forget(self, names: list[str]) -> None:
        while names:
            with suppress(NotFound):
                self._models.remove(names.pop())(0)

    def models(self) -> list[ModelInfo]:
        """What is known of every model, without loading any."""
        return self._models.infos()

    def info(self, model: str) -> ModelInfo:
        """What is known of a model, which is loaded for it.

        Raises:
            NotFound: no such model. ModelError: it cannot be loaded.
        """
        return self._models.info(model)

    def look(self, model: str) -> ModelInfo:
        """What is known of a model once its file was looked at: whether it can be served, found without its weights.

        Only where it holds operators that onnxruntime may not have is it loaded for that, and closed again.

        Raises:
            NotFound: no such model.
        """
        return self._models.look(model)

    def warm_up(self, model: str) -> ModelInfo:
        """Loads a model and runs it once, so that no request has to wait for either.

        Raises:
            NotFound: no such model. ModelError: it cannot be loaded.
        """
        return self._models.warm_up(model)

    def example(self, model: str) -> dict[str, Array]:
        """The inputs that the small file beside a model has as an example; none where it has none."""
        with self._models.use(model) as loaded:
            return loaded.example

    def methods(self) -> list[MethodInfo]:
        """The methods that can be asked for, with their parameters."""
        return infos()

    def layers(self, model: str, pattern: str = "", target: str = "") -> list[LayerInfo]:
        """The layers between the default sources and the target, a tensor, whose name, node or operator fits.

        Raises:
            NotFound, InvalidArgument: the target is no tensor that anything leads to.
        """
        with self._models.use(model) as loaded:
            return loaded.layers(pattern, target)

    def tensor(self, model: str, name: str) -> str:
        """The tensor that a name of a layer means.

        Raises:
            NotFound, InvalidArgument: none or several have the name, or it cannot be a layer.
        """
        with self._models.use(model) as loaded:
            return loaded.tensor(name)

    def links(self, model: str, layers: Sequence[str]) -> list[tuple[str, str]]:
        """The pairs of these layers of which the second follows the first by a way that crosses no other of them."""
        with self._models.use(model) as loaded:
            return links_between(loaded.nodes, [loaded.tensor(name) for name in layers])

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """The outputs, or any tensors by name, at the inputs."""
        with self._models.use(model) as loaded:
            return predict(loaded.fitting(inputs), inputs, outputs)

    def intervene(
        self,
        model: str,
        inputs: Mapping[str, Array],
        interventions: Intervention | Sequence[Intervention],
        *,
        target: Target | Selection = None,
        outputs: Sequence[str] = (),
        donors: Mapping[str, Array] | None = None,
        stop: Stop | None = None,
    ) -> Intervened:
        """The target with and without each intervention: activations that are removed, set, scaled or patched.

        `outputs` are further tensors to be answered; `donors` inputs from which patches and means are taken, by
        default `inputs` themselves. `stop` is asked while rows wait for their turn: "cancelled" raises Cancelled.

        Raises:
            InvalidArgument, NotFound, ModelError: the message names the intervention and the layer.
        """
        request = InterventionRequest(model, inputs, interventions, target, outputs, donors)
        with self._models.use(model) as loaded:
            return intervened(loaded.fitting(inputs), request, self._memory, stop or (lambda: None))

    def importance(
        self,
        model: str,
        inputs: Mapping[str, Array] | Array,
        labels: Sequence[int] | Array,
        *,
        layer: str,
        target: str | None = None,
        logit: bool | None = None,
        channels: ChannelSums = "auto",
        source: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> Importance:
        """How much each unit of a layer matters to the class of each sample: the sum over the unit's positions of the
        gradient of the class's logit, in batches, and its mean and spread per class.

        `labels` has an index of a class for each sample, or one-hot rows. `target` names the tensor of scores (default:
        the only float output), of which `logit` takes what a final Softmax is made of (None: where there is one).
        `channels` is the axis of the units, as `channel_sums` of requests. `progress` is told of samples done and all.

        Raises:
            InvalidArgument, NotFound, ModelError, NotDifferentiable: the message names what stands in the way, and the
                samples that it is about.
        """
        options: dict[str, Any] = {
            "layer": layer,
            "target": target,
            "logit": logit,
            "channels": channels,
            "source": source,
        }
        run = Measuring(model, self.info(model), inputs, labels, progress=progress, **options)
        begin(run, self.attribute, lambda name: self.predict(model, run.sample, [name])[name])
        for batch in run.batches(run.size(self._memory / 4)):
            try:
                run.add(batch, self.attribute(run.request(batch)))
            except AttributionError as error:
                raise run.refused(batch, error) from error
        return run.record()

    def attribute(self, request: AttributionRequest, *, advise: bool = True) -> Attribution:
        """The answer to a request: the best revision where it asks for a tolerance. `advise` is as for `stream`.

        Raises:
            InvalidArgument, NotFound, ModelError, NotDifferentiable: the message names what stands in the way.
        """
        best: Attribution | None = None
        for event in self.stream(request, revisions=False, advise=advise):
            if isinstance(event, Revision):
                best = event.attribution
        assert best is not None
        return best

    def stream(
        self,
        request: AttributionRequest,
        *,
        stop: Stop | None = None,
        revisions: bool = True,
        advise: bool = True,
    ) -> Iterator[Event]:
        """The answer as it comes: Accepted, Progress between runs, at least one Revision, Completed.

        Without `revisions` those are left out that are no better than one before, or of which it is known that a better
        one follows: the last is the best. With `advise`, the warning of an answer that misses the change names what
        would not, which is looked for in as much time again.

        `stop` is asked between runs: a reason ends the stream with the best revision, once there is one; "cancelled"
        raises Cancelled at once.
        """
        try:
            yield from self._events(request, stop, revisions, advise)
        except NotDifferentiable as error:
            raise _with_way_out(error) from error

    def _events(
        self, request: AttributionRequest, stop: Stop | None, revisions: bool, advise: bool
    ) -> Iterator[Event]:
        started = time.monotonic()
        recipe = recipe_of(request.method)
        with self._models.use(request.model) as model:
            model = model.fitting(request.inputs)
            wished = stop or (lambda: None)
            asked = resolve(model, request, recipe, wished)
            yield from events(model, asked, wished, self._memory, started, revisions, advise)

    def close(self) -> None:
        """Drops every session once no request runs on it; later calls are refused."""
        self._models.close()


def _with_way_out(error: NotDifferentiable) -> NotDifferentiable:
    """The refusal with the method that needs no derivative, unless there is no way to the target at all."""
    if error.reason == Reason.NO_PATH:
        return error
    return error.reworded(f"{error}; the method {without_derivatives()} needs no derivative")

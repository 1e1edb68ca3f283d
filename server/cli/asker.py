"""Whom a command asks: an engine in this process that holds the file, or a server that holds the model."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from onnx_attribution.client import messages
from onnx_attribution.client.client import Client
from onnx_attribution.client.links import links_of
from onnx_attribution.errors import InvalidArgument, ModelError, Reason
from onnx_attribution.methods import MethodInfo
from onnx_attribution.server.cli.login import Login
from onnx_attribution.server.cli.output import shape_text
from onnx_attribution.server.cli.samples import Parts, examples
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    Event,
    LayerInfo,
    ModelInfo,
    Preprocessing,
    ServerInfo,
    TensorInfo,
)

if TYPE_CHECKING:
    from onnx import TypeProto, ValueInfoProto

    from onnx_attribution.server.engine import Engine


@dataclass(frozen=True)
class Place:
    """Where the model is: a file and how it is run, or a server's address."""

    model: str
    server: str | None
    provider: str
    threads: int
    batch_axes: Mapping[str, int | None]
    shapes: Mapping[str, tuple[int, ...]]
    login: Login = field(default_factory=Login)
    file: str = ""
    """What the command was given, where the model has another name on the server."""
    share: float = 1.0
    """Of the memory that the rows of a run may take, where several processes share a device."""


class Asker(Protocol):
    """What engine and client have in common."""

    def info(self) -> ModelInfo: ...

    def layers(self, pattern: str) -> list[LayerInfo]: ...

    def methods(self) -> list[MethodInfo]: ...

    def example(self) -> dict[str, Array]: ...

    def stream(self, request: AttributionRequest) -> Iterator[Event]: ...

    @property
    def asked(self) -> tuple[Engine | Client, str]:
        """The engine or client itself, and what the model is called there."""
        ...

    def attribute(self, request: AttributionRequest) -> Attribution: ...

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]: ...

    def links(self, layers: Sequence[str]) -> list[tuple[str, str]]: ...

    def tensors(self, name: str) -> list[str]:
        """The layers that a name may mean: one, but where a server's names leave it open."""
        ...

    def origins(self) -> tuple[str, ...]:
        """The digests of the files that the model's was made of, as far as they are known."""
        ...

    def server(self) -> ServerInfo | None: ...


Read = Callable[[Sequence[TensorInfo], Mapping[str, Preprocessing]], Parts]


@contextmanager
def asking(place: Place, read: Read | None = None) -> Iterator[Asker]:
    """Whom to ask. `read` gives inputs on which a file can be tried that refuses random ones, by what it declares of
    them and what the file beside it says.

    Raises:
        InvalidArgument: an option that only files have, with a server. ModelError: the file cannot be used.
    """
    if place.server is None:
        with quiet(), _embedded(place, read) as asker:
            yield asker
        return
    with place.login.client(checked_address(place)) as client:
        yield _Remote(client, place.model)


def checked_address(place: Place) -> str:
    """The server's address. Raises: InvalidArgument: it is none, or an option is given that only files have."""
    if place.shapes or place.batch_axes:
        raise InvalidArgument(
            "--shape and --batch-axis are for files; the server has settled them for its models"
        )
    if not re.fullmatch(r"\S+:[0-9]{1,5}|unix:\S+", place.server or ""):
        raise InvalidArgument(f"--server {place.server!r} is not of the form HOST:PORT")
    return place.server or ""


def quiet() -> redirect_stdout[TextIO]:
    """What libraries print goes to stderr: stdout is the command's own."""
    return redirect_stdout(sys.stderr)


@contextmanager
def _embedded(place: Place, read: Read | None) -> Iterator[Asker]:
    from onnx_attribution.server.engine import Engine
    from onnx_attribution.server.engine.engine import MEMORY

    file = Path(place.model)
    if not file.is_file():
        raise ModelError(f"no file {place.model!r}", reason=Reason.MODEL_INVALID, file=place.model)
    memory = max(1, int(MEMORY * place.share))
    provider = provider_of(place.provider)
    with Engine(provider=provider, threads=place.threads or None, memory_budget=memory) as engine:
        engine.add(file.name, file, batch_axes=place.batch_axes, shapes=place.shapes)
        try:
            engine.info(file.name)
        except ModelError as error:
            _try_given(engine, place, read, error)
        _check_shapes(place.shapes, engine.info(file.name).inputs)
        yield Embedded(engine, file)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], infos: Sequence[TensorInfo]) -> None:
    """Refuses a shape that could not be meant: of no input, or not of its rank and fixed sizes."""
    known = {info.name: info for info in infos}
    for name, shape in shapes.items():
        if name not in known:
            listed = ", ".join(map(repr, known))
            raise InvalidArgument(
                f"--shape: no input {name!r}; the inputs are {listed}", reason=Reason.INPUT_UNKNOWN
            )
        dims = known[name].shape
        if dims is None:
            continue
        axis = known[name].batch_axis
        fits = len(shape) == len(dims) and all(
            k == axis or not isinstance(d, int) or d < 1 or d == n
            for k, (d, n) in enumerate(zip(dims, shape, strict=False))
        )
        if not fits:
            raise InvalidArgument(
                f"--shape {name}={'x'.join(map(str, shape))}: the model takes {shape_text(dims)}",
                reason=Reason.SHAPE_MISMATCH,
            )


def provider_of(name: str) -> Literal["auto", "cpu", "cuda"]:
    """Raises: InvalidArgument for a provider that does not exist."""
    for known in ("auto", "cpu", "cuda"):
        if name == known:
            return known
    raise InvalidArgument(f"no provider {name!r}; there are: auto, cpu, cuda", provider=name)


class Embedded:
    """The engine of this process, and the file that it holds."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self._engine = engine
        self._file, self._model = file, file.name

    def info(self) -> ModelInfo:
        return self._engine.info(self._model)

    def layers(self, pattern: str) -> list[LayerInfo]:
        return self._engine.layers(self._model, pattern)

    def methods(self) -> list[MethodInfo]:
        return self._engine.methods()

    def example(self) -> dict[str, Array]:
        return self._engine.example(self._model)

    def stream(self, request: AttributionRequest) -> Iterator[Event]:
        return self._engine.stream(replace(request, model=self._model))

    @property
    def asked(self) -> tuple[Engine | Client, str]:
        return self._engine, self._model

    def attribute(self, request: AttributionRequest) -> Attribution:
        return self._engine.attribute(request.changed(model=self._model))

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return self._engine.predict(self._model, inputs, outputs)

    def links(self, layers: Sequence[str]) -> list[tuple[str, str]]:
        return self._engine.links(self._model, layers)

    def tensors(self, name: str) -> list[str]:
        return [self._engine.tensor(self._model, name)]

    def origins(self) -> tuple[str, ...]:
        from onnx_attribution.graph_tools.ir.weights import Weights
        from onnx_attribution.graph_tools.programs.head import origins_told
        from onnx_attribution.graph_tools.read.load import load

        return origins_told(load(self._file, Weights(kept=False)))

    def server(self) -> ServerInfo | None:
        return None


class _Remote:
    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model

    def info(self) -> ModelInfo:
        return self._client.model(self._model)

    def layers(self, pattern: str) -> list[LayerInfo]:
        return self._client.layers(self._model, pattern)

    def methods(self) -> list[MethodInfo]:
        return self._client.methods()

    def example(self) -> dict[str, Array]:
        return {}  # it stays on the server

    def stream(self, request: AttributionRequest) -> Iterator[Event]:
        return self._client.stream(self._model, request.inputs, **messages.options_of(request))

    @property
    def asked(self) -> tuple[Engine | Client, str]:
        return self._client, self._model

    def attribute(self, request: AttributionRequest) -> Attribution:
        return self._client.attribute(self._model, request.inputs, **messages.options_of(request))

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return self._client.predict(self._model, inputs, outputs)

    def links(self, layers: Sequence[str]) -> list[tuple[str, str]]:
        return links_of(self._client.layers(self._model), layers)

    def tensors(self, name: str) -> list[str]:
        return called(name, self._client.layers(self._model, name))

    def origins(self) -> tuple[str, ...]:
        return ()  # the file stays on the server

    def server(self) -> ServerInfo | None:
        return self._client.server()


def called(name: str, layers: Sequence[LayerInfo]) -> list[str]:
    """Of the layers that a server lists for a name those that it means: a tensor, or else a node, or else the ends of
    these; what has none of them is a module."""
    from onnx_attribution.graph_tools.select.names import is_end

    def is_like(key: str) -> bool:
        return fnmatchcase(key, name) if any(c in name for c in "*?[") else is_end(key, name)

    rules: tuple[Callable[[LayerInfo], bool], ...] = (
        lambda one: one.name == name,
        lambda one: one.node == name,
        lambda one: is_like(one.name) or is_like(one.node),
        lambda one: True,
    )
    return next((found for rule in rules if (found := [one.name for one in layers if rule(one)])), [])


def _try_given(engine: Engine, place: Place, read: Read | None, failure: ModelError) -> None:
    """Loads the file with the inputs that are to be explained: some run on sensible inputs only.

    Raises:
        ModelError: it does not run on those either, or there are none.
    """
    from onnx_attribution.server.engine.models.card_file import card_of

    if failure.reason == Reason.CARD_INVALID:
        raise failure
    file = Path(place.model)
    infos = {} if read is None else {info.name: info for info in _declared_inputs(file)}
    failures = []
    given = {} if read is None else read(tuple(infos.values()), card_of(file).preprocessing)
    for example in examples(given, infos):
        engine.add(file.name, file, batch_axes=place.batch_axes, shapes=place.shapes, example=example)
        try:
            engine.info(file.name)
            return
        except ModelError as error:
            failures.append(error)
    raise failures[0] if failures else failure


def _declared_inputs(file: Path) -> list[TensorInfo]:
    """What the file itself says of its inputs, of which nothing is proven."""
    from onnx_attribution.graph_tools.ir.weights import Weights
    from onnx_attribution.graph_tools.normalise.plain_form import declared
    from onnx_attribution.graph_tools.read.load import load

    weights = Weights()
    return [described(value) for value in declared(load(file, weights)).graph.input]


def described(value: ValueInfoProto) -> TensorInfo:
    """What a file says of an input or output; the type of what is no tensor is as `map(string, float32)`."""
    from onnx_attribution.graph_tools.ir.shapes import dims_of

    return TensorInfo(value.name, _kind(value.type), dims_of(value), None)


def _kind(kind: TypeProto) -> str:
    match kind.WhichOneof("value"):
        case "map_type":
            return f"map({_element(kind.map_type.key_type)}, {_kind(kind.map_type.value_type)})"
        case "sequence_type":
            return f"sequence({_kind(kind.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({_kind(kind.optional_type.elem_type)})"
        case "sparse_tensor_type":
            return f"sparse({_element(kind.sparse_tensor_type.elem_type)})"
    return _element(kind.tensor_type.elem_type)


def _element(number: int) -> str:
    import onnx

    kind = onnx.TensorProto.DataType.Name(number).lower()
    return {"float": "float32", "double": "float64"}.get(kind, kind)

"""The models of an engine by name and version: loaded at first use, closed when nothing holds them any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from threading import Event, Lock

import onnx

from onnx_attribution.errors import (
    AttributionError,
    InvalidArgument,
    ModelError,
    NotDifferentiable,
    NotFound,
    NotReady,
    Reason,
)
from onnx_attribution.graph_tools.read.load import ModelSource
from onnx_attribution.graph_tools.select.names import close_names
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.interrupt import current
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import Array, ModelInfo


@dataclass(eq=False)
class Entry:
    """One version of a model. `users` are the requests that run on it; a retired entry is closed behind the last."""

    name: str
    version: int
    load: Callable[[], LoadedModel]
    lock: Lock = field(default_factory=Lock)
    model: LoadedModel | None = None
    failure: tuple[str, Reason] | None = None  # an exception would keep its callers' frames
    users: int = 0
    retired: bool = False
    used: float = 0.0
    load_seconds: float = 0.0
    closed: Event = field(default_factory=Event)

    def loaded(self) -> LoadedModel:
        """The model, loaded at the first call; a failure is kept and told again."""
        self.used = time.monotonic()
        with self.lock:
            if self.failure is None and self.model is None:
                began = time.monotonic()
                try:
                    found = self.load()
                    if (interrupt := current()) is not None:
                        interrupt.check()  # a step that was ended may have been taken for one that cannot be
                    self.model, self.load_seconds = found, time.monotonic() - began
                except (ModelError, NotDifferentiable) as error:
                    unlike = error.reason == Reason.RUNTIME_FAILURE or not isinstance(error, ModelError)
                    reason = Reason.MODEL_LOAD_FAILED if unlike else error.reason
                    self.failure = (f"model {self.name!r} cannot be loaded: {error}", reason)
                    raise ModelError(self.failure[0], reason=reason, model=self.name) from error
            if self.model is None:
                assert self.failure is not None
                raise ModelError(self.failure[0], reason=self.failure[1], model=self.name)
            return self.model

    def info(self) -> ModelInfo:
        """What is known so far."""
        if self.failure is not None:
            return ModelInfo(self.name, self.version, "FAILED", self.failure[0])
        if (model := self.model) is None:
            return ModelInfo(self.name, self.version, "UNLOADED")
        try:
            sources = model.sources((), model.first_target())
        except AttributionError:
            sources = ()
        return ModelInfo(
            self.name, self.version, "READY", "", model.digest, model.opset, model.network.batch, sources,
            model.inputs, model.outputs, self.load_seconds, model.card.description, model.card.class_names,
            model.card.preprocessing,
        )  # fmt: skip


class Registry:
    """Models by name and version; safe for several threads.

    At most `most_loaded` stay loaded (0: all): beyond that those that were used least lately and that nobody uses are
    closed, and loaded again when they are asked for.
    """

    def __init__(self, backend: Backend, most_loaded: int = 0) -> None:
        self._backend, self._most_loaded = backend, most_loaded
        self._entries: dict[str, dict[int, Entry]] = {}
        self._lock = Lock()
        self._closed = False

    def add(
        self,
        name: str,
        version: int,
        source: ModelSource,
        axes: Mapping[str, int | None] | None,
        shapes: Mapping[str, tuple[int, ...]] | None,
        given: Mapping[str, Array] | None,
        card: Path | None = None,
    ) -> None:
        """Makes a version known; the model that had its place is closed behind the last request that runs on it."""
        self._put(self._entry(name, version, source, axes, shapes, given, card))

    def renew(
        self,
        name: str,
        version: int,
        source: ModelSource,
        axes: Mapping[str, int | None] | None,
        shapes: Mapping[str, tuple[int, ...]] | None,
        given: Mapping[str, Array] | None,
        card: Path | None = None,
    ) -> ModelInfo:
        """Loads a version and runs it once before it takes the place of the one that had it, which else stays.

        Raises:
            ModelError: it cannot be loaded or run; where there was none, the failed one is known from then on.
        """
        entry = self._entry(name, version, source, axes, shapes, given, card)
        try:
            _warm_up(entry.loaded())
        except ModelError as error:
            entry.failure = entry.failure or (error.message, error.reason)
            with self._lock:
                is_first = version not in self._entries.get(name, {})
            if is_first:
                self._put(entry)
            raise
        self._put(entry)
        self._trim()
        return entry.info()

    def _entry(
        self,
        name: str,
        version: int,
        source: ModelSource,
        axes: Mapping[str, int | None] | None,
        shapes: Mapping[str, tuple[int, ...]] | None,
        given: Mapping[str, Array] | None,
        card: Path | None = None,
    ) -> Entry:
        if not name or "/" in name:
            raise InvalidArgument(
                f"a model cannot be called {name!r}; a name is not empty and holds no slash", name=name
            )
        if not isinstance(source, str | PathLike | bytes | onnx.ModelProto):
            raise InvalidArgument(
                f"the model {name!r} is a path, bytes or a ModelProto, not {type(source).__name__}", name=name
            )
        load = partial(LoadedModel, source, self._backend, axes, shapes, given, card=card)
        return Entry(name, version, load)

    def _put(self, entry: Entry) -> None:
        with self._lock:
            self._require_open()
            versions = self._entries.setdefault(entry.name, {})
            before = versions.get(entry.version)
            versions[entry.version] = entry
        if before is not None:
            self._retire([before])

    def remove(self, name: str, version: int | None = None) -> Callable[[float], bool]:
        """Drops a version, or all of them; what is returned waits, so many seconds at most, until they are closed.

        Raises:
            NotFound: there is no such model or version.
        """
        with self._lock:
            versions = self._versions(name)
            found = list(versions) if version is None else [self._version(name, version).version]
            dropped = [versions.pop(number) for number in found]
            if not versions:
                del self._entries[name]
        self._retire(dropped)

        def wait(seconds: float) -> bool:
            end = time.monotonic() + seconds
            return all(entry.closed.wait(max(end - time.monotonic(), 0)) for entry in dropped)

        return wait

    @contextmanager
    def use(self, model: str) -> Iterator[LoadedModel]:
        """The loaded model of `name` or `name/versions/n`, which stays open inside of the block."""
        with self._held(model) as entry:
            yield entry.loaded()

    def info(self, model: str) -> ModelInfo:
        """What is known of a model, which is loaded for it."""
        with self._held(model) as entry:
            entry.loaded()
            return entry.info()

    def warm_up(self, model: str) -> ModelInfo:
        """Loads a model and runs it once. Raises: NotFound; ModelError, which stays known, if that fails."""
        with self._held(model) as entry:
            try:
                _warm_up(entry.loaded())
            except ModelError as error:
                entry.failure = entry.failure or (error.message, error.reason)
                raise
            return entry.info()

    def infos(self) -> list[ModelInfo]:
        """What is known of every model, by name and version."""
        with self._lock:
            entries = [entry for versions in self._entries.values() for entry in versions.values()]
        return [entry.info() for entry in sorted(entries, key=lambda entry: (entry.name, entry.version))]

    def close(self) -> None:
        """Retires every model; later uses are refused."""
        with self._lock:
            self._closed = True
            entries = [entry for versions in self._entries.values() for entry in versions.values()]
        self._retire(entries)

    @contextmanager
    def _held(self, model: str) -> Iterator[Entry]:
        name, _, version = model.removeprefix("models/").partition("/versions/")
        with self._lock:
            self._require_open()
            entry = self._version(name, version or max(self._versions(name)))
            entry.users += 1
        try:
            yield entry
        finally:
            with self._lock:
                entry.users -= 1
            if entry.retired:
                self._retire([entry])
            self._trim()

    def _trim(self) -> None:
        """Closes the models beyond the limit."""
        if not self._most_loaded:
            return
        dropped: list[LoadedModel] = []
        with self._lock:
            entries = [entry for versions in self._entries.values() for entry in versions.values()]
            loaded = sorted((e for e in entries if e.model is not None), key=lambda e: e.used)
            for entry in loaded[: max(len(loaded) - self._most_loaded, 0)]:
                if not entry.users and entry.model is not None:
                    dropped.append(entry.model)
                    entry.model = None
        for model in dropped:
            model.close()

    def _retire(self, entries: list[Entry]) -> None:
        """Closes the models that nobody uses; the others follow when their last user leaves."""
        with self._lock:
            for entry in entries:
                entry.retired = True
            unused = [entry for entry in entries if not entry.users]
        for entry in unused:
            if entry.model is not None:
                entry.model.close()
            entry.closed.set()

    def _require_open(self) -> None:
        if self._closed:
            raise NotReady("the engine is closed", reason=Reason.ENGINE_CLOSED)

    def _versions(self, name: str) -> dict[int, Entry]:
        if name in self._entries:
            return self._entries[name]
        close = ", ".join(close_names(name, list(self._entries)))
        known = f"; close names: {close}" if close else ""
        raise NotFound(f"no model {name!r}{known}", reason=Reason.MODEL_NOT_FOUND, model=name, close=close)

    def _version(self, name: str, version: int | str) -> Entry:
        versions = self._versions(name)
        number = int(version) if str(version).isdigit() else None
        if number in versions:
            return versions[number]
        listed = ", ".join(map(str, sorted(versions)))
        raise NotFound(
            f"model {name!r} has no version {str(version)!r}; it has: {listed}",
            reason=Reason.VERSION_NOT_FOUND, model=name,
        )  # fmt: skip


def _warm_up(model: LoadedModel) -> None:
    """Runs the model once, as a request would. Raises: ModelError."""
    try:
        forward(model, model.network.example, [output.name for output in model.outputs])
    except InvalidArgument as error:
        raise ModelError(error.message, reason=Reason.MODEL_LOAD_FAILED) from error

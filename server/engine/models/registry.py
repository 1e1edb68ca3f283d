"""The models of an engine by name and version: loaded at first use, closed when nothing holds them any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from threading import Lock

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

    def loaded(self) -> LoadedModel:
        """The model, loaded at the first call; a failure is kept and told again."""
        with self.lock:
            if self.failure is None and self.model is None:
                try:
                    found = self.load()
                    if (interrupt := current()) is not None:
                        interrupt.check()  # a step that was ended may have been taken for one that cannot be
                    self.model = found
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
            model.inputs, model.outputs,
        )  # fmt: skip


class Registry:
    """Models by name and version; safe for several threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
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
    ) -> None:
        """Makes a version known; the model that had its place is closed behind the last request that runs on it."""
        if not name or "/" in name:
            raise InvalidArgument(
                f"a model cannot be called {name!r}; a name is not empty and holds no slash", name=name
            )
        if not isinstance(source, str | PathLike | bytes | onnx.ModelProto):
            raise InvalidArgument(
                f"the model {name!r} is a path, bytes or a ModelProto, not {type(source).__name__}", name=name
            )
        with self._lock:
            self._require_open()
            versions = self._entries.setdefault(name, {})
            before = versions.get(version)
            versions[version] = Entry(
                name, version, partial(LoadedModel, source, self._backend, axes, shapes, given)
            )
        if before is not None:
            self._retire([before])

    def remove(self, name: str, version: int | None = None) -> None:
        """Drops a version, or all of them.

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

    def _retire(self, entries: list[Entry]) -> None:
        """Closes the models that nobody uses; the others follow when their last user leaves."""
        with self._lock:
            for entry in entries:
                entry.retired = True
            unused = [entry.model for entry in entries if not entry.users]
        for model in unused:
            if model is not None:
                model.close()

    def _require_open(self) -> None:
        if self._closed:
            raise NotReady("the engine is closed", reason=Reason.ENGINE_CLOSED)

    def _versions(self, name: str) -> dict[int, Entry]:
        if name in self._entries:
            return self._entries[name]
        close = ", ".join(close_names(name, list(self._entries)))
        known = f"close names: {close}" if close else f"there are {len(self._entries)} models"
        raise NotFound(f"no model {name!r}; {known}", reason=Reason.MODEL_NOT_FOUND, model=name, close=close)

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

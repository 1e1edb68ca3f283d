"""The models of an engine by name and version: loaded at first use, closed when nothing holds them any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

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
from onnx_attribution.server.engine.interrupt import awaited, current
from onnx_attribution.server.engine.models.card import Card
from onnx_attribution.server.engine.models.card_file import files_beside
from onnx_attribution.server.engine.models.doubts import is_doubtful
from onnx_attribution.server.engine.models.folders import Stamp, stamps
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.models.read import Stated
from onnx_attribution.values import ModelInfo


class Failure(NamedTuple):
    """Why a model cannot be served, and what its files were then. An exception would keep its callers' frames."""

    message: str
    reason: Reason
    files: Mapping[Path, Stamp]

    def is_mended(self) -> bool:
        """Whether the files have changed, so that it is worth another try."""
        return stamps(self.files) != self.files


@dataclass(eq=False)
class Entry:
    """One version of a model. `users` are the requests that run on it; a retired entry is closed behind the last."""

    name: str
    version: int
    source: ModelSource
    card: Path | None
    load: Callable[[], LoadedModel]
    lock: Lock = field(default_factory=Lock)
    model: LoadedModel | None = None
    failure: Failure | None = None
    users: int = 0
    retired: bool = False
    used: float = 0.0
    load_seconds: float = 0.0
    closed: Event = field(default_factory=Event)

    def loaded(self) -> LoadedModel:
        """The model, loaded at the first call; a failure is kept and told again until the files change."""
        self.used = time.monotonic()
        with awaited(self.lock):
            if self.model is None or self.failure is not None:
                with self._failing():
                    began = time.monotonic()
                    found = self.load()
                    if (interrupt := current()) is not None:
                        interrupt.check()  # a step that was ended may have been taken for one that cannot be
                    self.model, self.load_seconds = found, time.monotonic() - began
            return self.model

    def is_doubtful(self) -> bool:
        """Whether only loading will tell if the model can be served. Raises: ModelError: it cannot, which is kept."""
        with awaited(self.lock):
            if self.model is not None and self.failure is None:
                return False
            with self._failing():
                return is_doubtful(self.source, self.card)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What is raised inside of the block is kept. Raises: ModelError, at once, where that is told again."""
        if self.failure is not None:
            if not self.failure.is_mended():
                raise ModelError(self.failure.message, reason=self.failure.reason, model=self.name)
            self.failure = self.model = None
        files = stamps(self._files())
        try:
            yield
        except (ModelError, NotDifferentiable) as error:
            unlike = error.reason == Reason.RUNTIME_FAILURE or not isinstance(error, ModelError)
            reason = Reason.MODEL_LOAD_FAILED if unlike else error.reason
            files |= stamps(self._files(error))
            self.failure = Failure(f"model {self.name!r} cannot be loaded: {error}", reason, files)
            raise ModelError(self.failure.message, reason=reason, model=self.name) from error

    def fail(self, error: ModelError) -> None:
        """Keeps what was raised when the model was run, unless it could not be loaded at all."""
        self.failure = self.failure or Failure(error.message, error.reason, stamps(self._files()))

    def _files(self, error: AttributionError | None = None) -> list[Path]:
        """What changes when the model is mended; with an error, only the file beside the model that it names."""
        if not isinstance(self.source, str | PathLike):
            return []
        path = Path(self.source)
        if error is not None:
            beside = Path(error.metadata.get("external", ".."))
            inside = not beside.is_absolute() and ".." not in beside.parts
            return [path.parent / beside] if inside else []
        return [path, path.parent, *([self.card] if self.card else files_beside(path))]

    def info(self) -> ModelInfo:
        """What is known so far."""
        failure = self.failure
        if failure is not None and not failure.is_mended():
            return ModelInfo(self.name, self.version, "FAILED", failure.message)
        if (model := self.model) is None or failure is not None:
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
        stated: Stated,
    ) -> None:
        """Makes a version known; the model that had its place is closed behind the last request that runs on it."""
        self._put(self._entry(name, version, source, stated))

    def renew(
        self,
        name: str,
        version: int,
        source: ModelSource,
        stated: Stated,
    ) -> ModelInfo:
        """Loads a version and runs it once before it takes the place of the one that had it, which else stays.

        Raises:
            ModelError: it cannot be loaded or run; where there was none, the failed one is known from then on.
        """
        entry = self._entry(name, version, source, stated)
        try:
            _warm_up(entry.loaded())
        except ModelError as error:
            entry.fail(error)
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
        stated: Stated,
    ) -> Entry:
        if not name or "/" in name:
            raise InvalidArgument(
                f"a model cannot be called {name!r}; a name is not empty and holds no slash", name=name
            )
        if not isinstance(source, str | PathLike | bytes | onnx.ModelProto):
            raise InvalidArgument(
                f"the model {name!r} is a path, bytes or a ModelProto, not {type(source).__name__}", name=name
            )
        axes, shapes, given, card = stated
        load = partial(LoadedModel, source, self._backend, axes, shapes, given, card=card)
        return Entry(name, version, source, None if isinstance(card, Card) else card, load)

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

    def look(self, model: str) -> ModelInfo:
        """What is known of a model once its file was looked at, without its weights; where only loading it tells
        whether it can be served, it is loaded, and closed again. Raises: NotFound.
        """
        with self._held(model) as entry, suppress(ModelError):
            if entry.is_doubtful():
                entry.loaded()
                self._close_unless_used(entry)
        return entry.info()

    def warm_up(self, model: str) -> ModelInfo:
        """Loads a model and runs it once. Raises: NotFound; ModelError, which stays known, if that fails."""
        with self._held(model) as entry:
            try:
                _warm_up(entry.loaded())
            except ModelError as error:
                entry.fail(error)
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

    def _close_unless_used(self, entry: Entry) -> None:
        """Closes a model that nobody uses but who calls this."""
        with self._lock:
            model, others = entry.model, entry.users > 1
            if others:
                return
            entry.model = None
        if model is not None:
            model.close()

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

"""The model directories of a server: what is found in them, and how it comes to be served, anew or no more."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Protocol

from onnx_attribution.errors import AttributionError, InvalidArgument, NotFound, NotReady, Reason
from onnx_attribution.server.engine.models.card_file import files_beside
from onnx_attribution.server.engine.models.folders import Report, Served, scan_all
from onnx_attribution.values import ModelInfo

State = tuple[str, int, int, str]
UNLOAD_SECONDS = 60.0
"""How long an unload waits for the requests that run on the model."""


class Models(Protocol):
    """What is needed of an engine."""

    def models(self) -> list[ModelInfo]: ...
    def info(self, model: str) -> ModelInfo: ...
    def add(self, name: str, model: Path, *, version: int = 1) -> None: ...
    def load(self, name: str, model: Path, *, version: int = 1) -> ModelInfo: ...
    def remove(self, name: str, version: int | None = None, *, wait: float = 0) -> bool: ...


class Repository:
    """Models by name and version as files below folders. Changes happen one at a time."""

    def __init__(self, engine: Models, folders: Iterable[Path] = ()) -> None:
        self._engine, self.folders = engine, tuple(folders)
        self._changing = Lock()
        self._states: dict[tuple[str, int], tuple[State, ...]] = {}

    def start(self, skipped: Report) -> None:
        """Makes everything known that is there; each is loaded at its first use."""
        for served in scan_all(self.folders, skipped):
            self._engine.add(served.name, served.path, version=served.version)
            self._states[served.name, served.version] = _state(served.path)

    def load(self, model: str) -> ModelInfo:
        """Loads what the folders hold under a name, or a name and a version, where it is new or has changed.

        Raises:
            NotFound: there is no such file, and no such model. ModelError: it cannot be loaded: what was served stays.
            NotReady: another change is under way.
        """
        name, version = split(model)
        with self._alone(model):
            found = [one for one in self._found() if one.name == name and version in (None, one.version)]
            for served in found:
                key, state = (served.name, served.version), _state(served.path)
                if self._states.get(key) != state or self._is_unloaded(served):
                    self._engine.load(served.name, served.path, version=served.version)
                    self._states[key] = state
            return self._engine.info(model)

    def unload(self, model: str) -> None:
        """Serves a model, or one version of it, no more.

        Raises:
            NotFound: it is not served. NotReady: requests run on it still; it is closed behind the last of them.
        """
        name, version = split(model)
        with self._alone(model):
            is_closed = self._engine.remove(name, version, wait=UNLOAD_SECONDS)
            for key in [key for key in self._states if key[0] == name and version in (None, key[1])]:
                del self._states[key]
        if not is_closed:
            raise NotReady(
                f"{model!r} is served no more; it is closed when the requests have ended that run on it",
                reason=Reason.MODEL_NOT_READY,
            )

    def versions(self, name: str) -> set[int]:
        """The versions of a model that are served or lie in the folders."""
        served = {one.version for one in self._engine.models() if one.name == name}
        return served | {one.version for one in self._found() if one.name == name}

    def discard(self, model: str, folder: Path) -> None:
        """Takes a version that could not be loaded out of the folders again."""
        name, version = split(model)
        with self._changing:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # other versions are there
                folder.parent.rmdir()
            with suppress(NotFound):
                self._engine.remove(name, version)
            self._states.pop((name, version or 1), None)

    def follow(self, report: Callable[[str, str], None]) -> None:
        """Serves what has come or changed since the last look, and no more what has gone; `report` is called with the
        name of each model and what has become of it."""
        with self._changing:
            found = {(one.name, one.version): one for one in self._found()}
            for key, served in found.items():
                if key not in self._states:
                    self._engine.add(served.name, served.path, version=served.version)
                    report(served.name, "added")
                elif self._states[key] != (state := _state(served.path)):
                    report(served.name, self._renewed(served))
                    self._states[key] = state
                self._states.setdefault(key, _state(served.path))
            for key in [key for key in self._states if key not in found]:
                del self._states[key]
                self._engine.remove(*key)
                report(key[0], "removed")

    def _renewed(self, served: Served) -> str:
        try:
            self._engine.load(served.name, served.path, version=served.version)
        except Exception as error:  # what was served stays
            return f"not replaced: {error}"
        return "replaced"

    def _found(self) -> list[Served]:
        return scan_all(self.folders)

    def _is_unloaded(self, served: Served) -> bool:
        return any(
            (one.name, one.version) == (served.name, served.version) and one.state != "READY"
            for one in self._engine.models()
        )

    def _alone(self, model: str) -> _Turn:
        return _Turn(self._changing, model)


async def watch(repository: Repository, report: Callable[[str, str], None]) -> None:
    """Follows the folders for ever. A file is best put into them by a rename, so that no half of it is seen.

    Raises: InvalidArgument, at once, where watchfiles is not installed.
    """
    try:
        from watchfiles import awatch
    except ImportError:
        raise InvalidArgument("watch needs watchfiles: pip install 'onnx-attribution[watch]'") from None
    async for _ in awatch(*repository.folders):
        try:
            await asyncio.to_thread(repository.follow, report)
        except AttributionError as error:  # two files of one version, say
            report("", f"not followed: {error}")


class _Turn:
    """A change of the models, refused while another one is under way."""

    def __init__(self, lock: Lock, model: str) -> None:
        self._lock, self._model = lock, model

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise NotReady(
                f"{self._model!r} cannot be changed while another model is",
                reason=Reason.CONCURRENT_OPERATION,
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def split(model: str) -> tuple[str, int | None]:
    """Name and version of `name`, `models/name` or `models/name/versions/n`. Raises: InvalidArgument, NotFound."""
    name, _, version = model.removeprefix("models/").partition("/versions/")
    if not name:
        raise InvalidArgument("a model name is required", violations={"model": "a model name is required"})
    if version and not version.isdigit():
        raise NotFound(f"{version!r} is no version", reason=Reason.VERSION_NOT_FOUND, model=name)
    return name, int(version) if version else None


def _state(path: Path) -> tuple[State, ...]:
    """What tells a model, with its card and the files that this names, from another one in its place: size, time of
    change, and for small ones the bytes."""
    return _file_state(path), *(_file_state(file) for file in files_beside(path) if file.is_file())


def _file_state(file: Path) -> State:
    found = file.stat()
    small = hashlib.sha256(file.read_bytes()).hexdigest() if found.st_size < 1 << 20 else ""
    return file.name, found.st_size, found.st_mtime_ns, small

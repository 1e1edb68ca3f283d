"""How models come to be served, change, and go: model directories, requests that run meanwhile, uploads."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx.parser import parse_model

from onnx_attribution import errors
from onnx_attribution.client import AsyncClient, Client
from onnx_attribution.client.errors import translated
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.service.repository import Repository, watch
from onnx_attribution.server.settings import Settings

X = np.array([[1, 2]], np.float32)


def times(factor: float) -> onnx.ModelProto:
    return parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[N,2] x) => (float[N,2] y) {{
            k = Constant<value = float {{{factor}}}>()
            y = Mul(x, k)
        }}"""
    )


def write(folder: Path, name: str, factor: float, version: int = 1) -> Path:
    file = folder / name / str(version) / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(times(factor), file)
    return file


class Served:
    """A server over a folder, with what tests ask of it."""

    def __init__(self, address: str, engine: Engine, folder: Path) -> None:
        self.client, self.engine, self.folder = Client(address), engine, folder
        self.address = address
        self.channel = grpc.insecure_channel(address)
        self.models: Any = rpc.ModelServiceStub(self.channel)
        self.server: Any = rpc.ServerServiceStub(self.channel)

    def load(self, name: str) -> pb.Model:
        with translated():
            found: pb.Model = self.models.LoadModel(pb.LoadModelRequest(model=name), timeout=20).model
        return found

    def unload(self, name: str) -> None:
        with translated():
            self.models.UnloadModel(pb.UnloadModelRequest(model=name), timeout=20)

    def upload(self, name: str, data: bytes, **begin: Any) -> pb.Model:
        fields = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **begin}

        def parts() -> Iterator[pb.UploadModelRequest]:
            yield pb.UploadModelRequest(begin=pb.UploadModelRequest.Begin(name=name, **fields))
            for start in range(0, len(data), 64):
                yield pb.UploadModelRequest(data=data[start : start + 64])

        with translated():
            found: pb.Model = self.models.UploadModel(parts(), timeout=20).model
        return found

    def y(self, name: str) -> float:
        (found,) = self.client.predict(name, {"x": X}).values()
        return float(found[0, 0])


@contextmanager
def serving(folder: Path, most_loaded: int = 0, **settings: Any) -> Iterator[Served]:
    with Engine(provider="cpu", most_loaded=most_loaded) as engine:
        repository = Repository(engine, [folder])
        repository.start(lambda file, why: None)
        chosen = Settings(port=0, models=(folder,), heartbeat_seconds=0.2, **settings)
        with app.background(engine, chosen) as (address, _):
            served = Served(address, engine, folder)
            with served.client, served.channel:
                yield served


def test_a_model_that_comes_later_is_served_once_it_is_loaded(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        with pytest.raises(errors.NotFound):
            served.load("late")
        write(tmp_path, "late", 2)
        info = served.load("late")
        assert info.state == pb.Model.STATE_READY
        assert len(info.digest) == 64
        assert info.load_seconds > 0
        assert served.y("late") == 2


def test_a_changed_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    with serving(tmp_path) as served:
        before = served.load("m").digest
        assert served.y("m") == 2
        write(tmp_path, "m", 3)
        assert served.y("m") == 2  # until it is asked for
        assert served.load("m").digest != before
        assert served.y("m") == 3


def test_a_file_that_cannot_be_loaded_leaves_what_was_served(tmp_path: Path) -> None:
    file = write(tmp_path, "m", 2)
    with serving(tmp_path) as served:
        assert served.y("m") == 2
        file.write_bytes(b"no model at all")
        with pytest.raises(errors.ModelError) as caught:
            served.load("m")
        assert str(tmp_path) not in str(caught.value)
        assert served.y("m") == 2


def test_a_file_that_is_mended_is_served_without_a_word(tmp_path: Path) -> None:
    file = write(tmp_path, "m", 2)
    file.write_bytes(b"no model at all")
    write(tmp_path, "other", 3)
    with serving(tmp_path) as served:
        wait_until(lambda: state_of(served, "m") == "FAILED")
        wait_until(lambda: not served.client.health("models/m"))
        assert served.client.health("models/other")
        write(tmp_path, "m", 5)
        wait_until(lambda: served.client.health("models/m"))
        assert state_of(served, "m") == "UNLOADED"
        assert served.y("m") == 5


def test_a_file_that_breaks_again_is_looked_at_again(tmp_path: Path) -> None:
    file = write(tmp_path, "m", 2)
    with serving(tmp_path) as served:
        for _ in range(2):
            file.write_bytes(b"no model at all")
            with pytest.raises(errors.ModelError):
                served.y("m")
            wait_until(lambda: not served.client.health("models/m"))
            write(tmp_path, "m", 3)
            wait_until(lambda: served.client.health("models/m"))


def state_of(served: Served, name: str) -> str:
    return {one.name: one.state for one in served.client.models()}[name]


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(400):
        if done():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_a_new_version_is_served_beside_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    with serving(tmp_path) as served:
        write(tmp_path, "m", 5, version=2)
        served.load("m/versions/2")
        assert (served.y("m"), served.y("m/versions/1"), served.y("models/m/versions/2")) == (5, 2, 5)
        served.unload("m/versions/2")
        assert served.y("m") == 2


def test_an_unloaded_model_is_gone_until_it_is_loaded_again(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    with serving(tmp_path) as served:
        assert served.y("m") == 2
        served.unload("m")
        with pytest.raises(errors.NotFound):
            served.y("m")
        with pytest.raises(errors.NotFound):
            served.unload("m")
        served.load("m")
        assert served.y("m") == 2


def test_an_unload_waits_for_the_requests_that_run(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    with serving(tmp_path) as served:
        unloading = threading.Thread(target=served.unload, args=("m",))
        with served.engine._models.use("m"):
            unloading.start()
            unloading.join(0.3)
            assert unloading.is_alive()
            with pytest.raises(errors.NotFound):
                served.y("m")  # no new request reaches it
        unloading.join(10)
        assert not unloading.is_alive()


def test_the_models_that_were_used_least_lately_are_closed_beyond_the_limit(tmp_path: Path) -> None:
    for k in range(4):
        write(tmp_path, f"m{k}", k + 1)
    with serving(tmp_path, most_loaded=2) as served:
        for k in (0, 1, 0, 2):
            assert served.y(f"m{k}") == k + 1
        ready = {one.name for one in served.engine.models() if one.state == "READY"}
        assert ready == {"m0", "m2"}
        assert served.y("m1") == 2  # loaded again
        info = served.server.GetServerInfo(pb.GetServerInfoRequest())
        assert (info.models, info.loaded_models) == (4, 2)


def test_the_server_says_what_it_is_and_its_limits(tmp_path: Path) -> None:
    with serving(tmp_path, max_samples=7) as served:
        info = served.server.GetServerInfo(pb.GetServerInfoRequest())
    assert info.version
    assert info.versions["onnx"] == onnx.__version__
    assert info.provider == "cpu"
    assert info.limits["max_samples"] == 7
    assert "neuron_ig" in info.methods
    assert {"Conv", "Gelu"} <= set(info.operators)
    assert not info.uploads


async def test_both_clients_load_unload_and_upload(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    file = tmp_path.parent / f"{tmp_path.name}.onnx"
    onnx.save(times(6), file)
    with serving(tmp_path, uploads=True) as served:
        assert served.client.load("m").state == "READY"
        assert served.client.upload("m", file).version == 2
        assert served.client.server().models == 2
        async with AsyncClient(served.address) as client:
            assert (await client.upload("n", file, version=3)).version == 3
            assert (await client.server()).uploads
            assert (await client.load("n")).state == "READY"
            await client.unload("n")
        served.client.unload("m")
        assert not served.client.models()
        with pytest.raises(errors.InvalidArgument, match="cannot be read"):
            served.client.upload("m", tmp_path / "none.onnx")


def test_an_upload_becomes_the_next_version(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    with serving(tmp_path, uploads=True) as served:
        info = served.upload("m", times(7).SerializeToString())
        assert (info.version, info.state) == (2, pb.Model.STATE_READY)
        assert served.y("m") == 7
        assert (tmp_path / "m" / "2" / "model.onnx").exists()
        assert served.upload("fresh", times(4).SerializeToString()).version == 1
        assert served.y("fresh") == 4


def test_an_upload_takes_the_place_of_no_file_wherever_that_is(tmp_path: Path) -> None:
    onnx.save(times(2), tmp_path / "flat.onnx")
    (tmp_path / "nested").mkdir()
    onnx.save(times(3), tmp_path / "nested" / "model.onnx")
    data = times(7).SerializeToString()
    with serving(tmp_path, uploads=True) as served:
        for name, factor in (("flat", 2), ("nested", 3)):
            with pytest.raises(errors.InvalidArgument) as caught:
                served.upload(name, data, version=1)
            assert caught.value.reason == "VERSION_EXISTS"
            assert served.y(name) == factor
            assert served.upload(name, data).version == 2
            assert (served.y(f"{name}/versions/1"), served.y(name)) == (factor, 7)


@pytest.mark.parametrize(
    ("begin", "error", "reason"),
    [
        ({"sha256": "0" * 64}, errors.InvalidArgument, "UPLOAD_DIGEST_MISMATCH"),
        ({"size": 10}, errors.InvalidArgument, "UPLOAD_DIGEST_MISMATCH"),
        ({"size": 1 << 50}, errors.InvalidArgument, "PARAMETER_INVALID"),
        ({"sha256": "zz"}, errors.InvalidArgument, "PARAMETER_INVALID"),
        ({"version": 1}, errors.InvalidArgument, "VERSION_EXISTS"),
    ],
)
def test_an_upload_that_is_not_what_it_says_leaves_nothing(
    tmp_path: Path, begin: dict[str, Any], error: type[Exception], reason: str
) -> None:
    write(tmp_path, "m", 2)
    with serving(tmp_path, uploads=True) as served:
        with pytest.raises(error) as caught:
            served.upload("m", times(7).SerializeToString(), **begin)
        assert caught.value.reason == reason  # type: ignore[attr-defined]
        assert served.y("m") == 2
    assert [one.name for one in tmp_path.iterdir()] == ["m"]
    assert [one.name for one in (tmp_path / "m").iterdir()] == ["1"]


def test_an_upload_of_no_model_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, uploads=True) as served:
        with pytest.raises(errors.ModelError):
            served.upload("bad", b"no model at all")
        with pytest.raises(errors.InvalidArgument):
            served.upload("../bad", times(7).SerializeToString())
        assert not served.client.models()
    assert not list(tmp_path.iterdir())


def test_what_comes_changes_and_goes_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "a", 2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    seen: list[tuple[str, str]] = []
    with Engine(provider="cpu") as engine:
        repository = Repository(engine, [tmp_path])
        repository.start(lambda file, why: None)
        write(tmp_path, "c", 4)
        write(tmp_path, "a", 3)
        shutil.rmtree(tmp_path / "b")
        repository.follow(lambda name, what: seen.append((name, what)))
        repository.follow(lambda name, what: seen.append((name, what)))
        assert sorted(seen) == [("a", "replaced"), ("b", "removed"), ("c", "added")]
        assert [info.name for info in engine.models()] == ["a", "c"]
        engine.predict("c", {"x": X})
        (tmp_path / "c" / "1" / "model.onnx").write_bytes(b"broken")
        repository.follow(lambda name, what: seen.append((name, what)))
        assert seen[-1][1].startswith("not replaced")
        assert engine.predict("c", {"x": X})["y"][0, 0] == 4


async def test_a_watched_folder_is_followed_by_itself(tmp_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        repository = Repository(engine, [tmp_path])
        seen: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def report(model: str, what: str) -> None:
            loop.call_soon_threadsafe(seen.put_nowait, (model, what))

        watching = asyncio.create_task(watch(repository, report))
        await asyncio.sleep(0.3)
        made = tmp_path.parent / f"{tmp_path.name}-made"
        write(made, "m", 2)
        (made / "m").rename(tmp_path / "m")
        assert await asyncio.wait_for(seen.get(), 10) == ("m", "added")
        watching.cancel()

"""The page of a model: what it shows is what `explain` prints, and what it refuses it says in words."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from urllib.parse import urlencode, urlsplit

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from onnx_attribution.client.aio import AsyncClient
from tests.server.cli.commands import run
from tests.server.web.visitor import Visitor, command_of, visiting

Data = tuple[NDArray[np.float32], NDArray[np.int64]]
INPUT = {"model": "digits.onnx", "input": "beside:three.npy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits_path: Path, digits_data: Data) -> Path:
    """Returns a folder with the model and a file of three samples beside it."""
    place = tmp_path_factory.mktemp("page")
    shutil.copy(digits_path, place)
    np.save(place / "three.npy", digits_data[0][:3])
    return place


@pytest.fixture(scope="module")
def visitor(folder: Path) -> Iterator[Visitor]:
    """Yields somebody who has opened the page of the model."""
    with visiting(folder / "digits.onnx") as one:
        yield one


def test_the_only_model_is_opened_with_the_file_beside_it(visitor: Visitor) -> None:
    assert visitor.get("/").headers["location"] == "/explain?model=digits.onnx"
    text = visitor.get("/explain", model="digits.onnx").text
    assert "three.npy" in text
    assert 'max="2"' in text
    assert 'data-stream="/stream?model=digits.onnx&amp;input=beside%3Athree.npy' in text


def test_revisions_come_one_after_the_other_and_the_last_is_final(visitor: Visitor) -> None:
    events = visitor.events(**INPUT, layer="relu2")
    kinds = [kind for kind, _ in events if kind != "progress"]
    numbers = [told["number"] for kind, told in events if kind == "revision"]
    assert kinds == ["revision"] * (len(kinds) - 1) + ["final"]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 1
    assert "Final" in events[-1][1]["html"]
    assert not any("Final" in told["html"] for kind, told in events if kind == "revision")


@pytest.mark.parametrize(
    "fields",
    [
        {"layer": "relu2", "method": "deeplift_rescale", "row": 2, "target": "3", "baseline": "0.25"},
        {"method": "integrated_gradients", "parameter": "steps=8", "target": "-1", "baseline": "-0.5"},
    ],
)
def test_the_command_line_that_is_shown_gives_the_same_numbers(
    visitor: Visitor, fields: dict[str, str]
) -> None:
    text = visitor.final(**INPUT, **fields)
    done = run(*command_of(text), "--json")
    assert done.exit_code == 0, done.output
    (layer,) = json.loads(done.stdout)["layers"].values()
    told = re.search(r"together contribute ([−0-9.e]+)<", text)
    assert told is not None
    assert float(told[1].replace("−", "-")) == pytest.approx(layer["sum"][0], rel=1e-3)


def test_facts_are_told_in_words(visitor: Visitor) -> None:
    text = visitor.final(**INPUT, layer="relu2", method="deeplift_rescale", target="7")
    for word in ("logits[7]", "is to be explained", "all units of the layer together", "of the change"):
        assert word in text
    assert "data:image/png" in text


def test_layers_are_a_spine_of_cuts_with_links(visitor: Visitor) -> None:
    text = visitor.spine(**INPUT, method="deeplift_rescale")
    names = re.findall(r'class="name">(\w+)<', text)
    assert names == ["image", "relu1", "relu2", "pool", "relu3", "logits"]
    assert text.count('class="cut') == len(names)
    assert text.count("100 %") == len(names) - 1
    assert "the target: element 7" in text


def test_what_goes_around_a_layer_is_said_of_branches(tmp_path: Path) -> None:
    text = """residual (float[N,4] x) => (float[N,1] y)
        { a = Relu(x) s = Add(x, a) r = Relu(s) y = ReduceSum(r, axes) }"""
    file = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    file.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    onnx.save(file, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0, 3.0, 4.0]], np.float32))
    with visiting(tmp_path / "m.onnx") as visitor:
        found = visitor.spine(model="m.onnx", input="beside:x.npy", method="deeplift_rescale")
    # y is the sum of relu(x + relu(x)): half of it comes by the relu, and half around it.
    branch = re.search(r'<li class="branch">.*?</li>', found, re.DOTALL)
    assert branch is not None
    assert ">a<" in branch[0]
    assert "50 % bypasses it" in branch[0]


def test_the_error_of_a_sum_is_said_of_cuts(tmp_path: Path) -> None:
    text = "square (float[N,2] x) => (float[N,1] y) { q = Mul(x, x) r = Relu(q) y = ReduceSum(r, axes) }"
    file = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    file.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    onnx.save(file, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0]], np.float32))
    few = {"method": "neuron_ig", "parameter": "quadrature=right steps=2"}
    with visiting(tmp_path / "m.onnx") as visitor:
        found = visitor.spine(model="m.onnx", input="beside:x.npy", **few)
    # The mean of 2 a x at a = 1/2 and 1 is 3/2 x, so that x has 3/2 of the change; q and r are linear in theirs.
    rows = dict(re.findall(r'class="name">(\w+)<.*?(150 %.*?)</li>', found, re.DOTALL))
    assert rows.keys() == {"x"}
    assert "50 % is the error of the sum" in rows["x"]
    assert found.count("is the error of the sum") == 1


def test_a_file_that_is_gone_is_no_missing_layer(visitor: Visitor) -> None:
    for key, words in (("0123456789abcdef", "choose it again"), ("beside:gone.npy", "beside the model")):
        found = visitor.get("/stream", model="digits.onnx", input=key).text
        assert words in found
        assert "PARAMETER_INVALID" in found
        assert "NODE_NOT_FOUND" not in found


def test_the_prediction_is_that_of_the_model(visitor: Visitor, digits_data: Data) -> None:
    text = visitor.get("/prediction", **INPUT, row=1).text
    first = re.search(r'target=(\d)">', text.replace("&amp;", "&"))
    assert first is not None
    assert int(first[1]) == digits_data[1][1]


def test_pictures_are_taken_and_brought_to_size(visitor: Visitor, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30, 3), 128, np.uint8)).save(tmp_path / "my photo.png")
    found = visitor.upload(tmp_path / "my photo.png", "digits.onnx")
    assert found["samples"] == 1
    text = visitor.final(model="digits.onnx", input=found["key"])
    assert "brought to the model" in text
    assert command_of(text)[2:5] == ["--input", "my photo.png", "--resize"]


def test_what_is_no_input_is_refused_in_words(visitor: Visitor, tmp_path: Path) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((2, 5), np.float32))
    found = visitor.upload(tmp_path / "wrong.npy", "digits.onnx")
    text = found["html"] if "html" in found else visitor.final(model="digits.onnx", input=found["key"])
    assert "What would work" in text
    assert "/tmp" not in text


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"target": "77"}, "TARGET_INVALID"),
        ({"layer": "nowhere"}, "NODE_NOT_FOUND"),
        ({"method": "nonsense"}, "choose one of the list"),
        ({"row": "9"}, "there is no sample 9"),
        ({"target": "@/etc/passwd"}, "names a file"),
        ({"baseline": "/etc/passwd"}, "is no number"),
        ({"parameter": "steps=none"}, "PARAMETER_INVALID"),
        ({"layer": "<script>alert(1)</script>"}, "&lt;script&gt;"),
    ],
)
def test_refusals_say_what_would_work(visitor: Visitor, fields: dict[str, str], word: str) -> None:
    kind, told = visitor.events(**INPUT, **fields)[-1]
    assert kind == "refused"
    assert word in told["html"]
    assert "<script>" not in told["html"]


def test_two_questions_stand_side_by_side(visitor: Visitor) -> None:
    fields = {**INPUT, "method": "gradient", "b.method": "deeplift_rescale", "b.layer": "relu2"}
    text = visitor.get("/explain", **fields).text
    assert text.count('data-stream="/stream') == text.count('data-stream="/spine') == 2
    assert "logits" in visitor.final(**fields, side=0)
    assert ">relu2<" in visitor.final(**fields, side=1)


def test_one_file_holds_both_answers_and_asks_for_nothing(visitor: Visitor) -> None:
    saved = visitor.get("/export", **INPUT, method="gradient", **{"b.method": "deeplift_rescale"})
    assert saved.headers["content-disposition"] == 'attachment; filename="digits.onnx.html"'
    text = saved.text
    assert text.count("onnx-attribution explain") == 2
    assert "--method deeplift-rescale" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "<script" not in text


def test_netron_is_offered_where_it_is_installed(
    visitor: Visitor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def post() -> tuple[int, dict[str, str]]:
        answer = visitor.ask("/netron", b"", Origin=visitor.url.partition("/?")[0])
        return answer.status, json.loads(answer.text)

    opened = []

    def start(file: str, browse: bool) -> tuple[str, int]:
        opened.append((file, browse))
        return "localhost", 8080

    netron = ModuleType("netron")
    netron.__spec__ = ModuleSpec("netron", None)
    netron.start = start  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "netron", netron)
    assert 'id="netron"' in visitor.get("/explain", **INPUT).text
    for _ in range(2):  # the second time it is there already
        assert post() == (200, {"url": "http://localhost:8080"})
    assert opened == [(str(folder / "digits.onnx"), False)]
    monkeypatch.delitem(sys.modules, "netron")
    monkeypatch.setattr("onnx_attribution.server.cli.reader.find_spec", lambda name: None)
    assert 'id="netron"' not in visitor.get("/explain", **INPUT).text
    _, told = post()
    assert "url" not in told
    assert "pip install netron" in told["html"]


def test_what_nobody_waits_for_is_given_up(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = threading.Event(), threading.Event()

    async def never(*arguments: object, **options: object) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
            raise

    monkeypatch.setattr(AsyncClient, "attribute", never)
    at = urlsplit(visitor.url)
    with socket.create_connection((at.hostname or "", at.port or 0)) as connection:
        cookie = visitor.headers["Cookie"]
        path = f"/export?{urlencode({**INPUT, 'target': '4'})}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {at.netloc}\r\nCookie: {cookie}\r\n\r\n".encode())
        assert began.wait(20)
        assert not ended.is_set()
    assert ended.wait(20)


def test_an_end_in_the_midst_of_an_answer_is_quiet(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with visiting(folder / "digits.onnx") as one:
        began = threading.Event()

        @asynccontextmanager
        async def never(*arguments: object, **options: object) -> AsyncIterator[None]:
            began.set()
            await asyncio.sleep(60)
            yield

        monkeypatch.setattr(AsyncClient, "stream", never)
        at = urlsplit(one.url)
        connection = socket.create_connection((at.hostname or "", at.port or 0))
        cookie = one.headers["Cookie"]
        asked = f"GET /stream?{urlencode(INPUT)} HTTP/1.1\r\nHost: {at.netloc}\r\nCookie: {cookie}\r\n\r\n"
        connection.sendall(asked.encode())
        assert began.wait(20)
    connection.close()
    assert not [record for record in caplog.records if record.exc_info]


def test_the_first_file_that_fits_is_explained(tmp_path: Path, digits_path: Path, digits_data: Data) -> None:
    shutil.copy(digits_path, tmp_path)
    np.save(tmp_path / "another.npy", np.zeros((4, 5), np.float32))
    (tmp_path / "config.json").write_text("{}")
    np.save(tmp_path / "images.npy", digits_data[0][:2])
    with visiting(tmp_path / "digits.onnx") as one:
        text = one.get("/explain", model="digits.onnx").text
    assert "input=beside%3Aimages.npy" in text

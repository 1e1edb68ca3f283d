"""Somebody who opens the page, and keeps its cookie."""

from __future__ import annotations

import html
import http.client
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from onnx_attribution.client.aio import AsyncClient
from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.server.cli.asker import Place
from onnx_attribution.server.cli.page import served
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.reader import Reader
from onnx_attribution.server.web import Pages, serving


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str


@dataclass
class Visitor:
    """Asks a page on this machine; `headers` are sent with each request."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> Answer:
        at = urlsplit(self.url)
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=60)
        try:
            given = {**self.headers, **{name.replace("_", "-"): text for name, text in headers.items()}}
            connection.request("GET" if body is None else "POST", path, body, given)
            response = connection.getresponse()
            told = {name.lower(): text for name, text in response.getheaders()}
            return Answer(response.status, told, response.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **fields: object) -> Answer:
        return self.ask(f"{path}?{urlencode(fields)}" if fields else path)

    def upload(self, file: Path, model: str, **fields: str) -> dict[str, Any]:
        at = urlsplit(self.url)
        asked = urlencode({"model": model, "name": file.name, **fields})
        answer = self.ask(f"/upload?{asked}", file.read_bytes(), Origin=f"http://{at.netloc}")
        found: dict[str, Any] = json.loads(answer.text)
        return found

    def events(self, **fields: object) -> list[tuple[str, dict[str, Any]]]:
        """What the stream of an answer sends: the kinds of its events, and what they say."""
        return self._sent("/stream", **fields)

    def _sent(self, address: str, **fields: object) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for event in self.get(address, **fields).text.strip().split("\n\n"):
            kind, _, data = event.partition("\n")
            found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return found

    def spine(self, **fields: object) -> str:
        """The HTML of the layers."""
        return str(self._sent("/spine", **fields)[-1][1]["html"])

    def final(self, **fields: object) -> str:
        """The HTML with which a stream ends."""
        return str(self.events(**fields)[-1][1]["html"])


def opened(url: str) -> Visitor:
    """Returns somebody who has opened the address with the key."""
    visitor = Visitor(url)
    answer = visitor.ask(f"/?{urlsplit(url).query}")
    visitor.headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
    return visitor


def command_of(text: str) -> list[str]:
    """Returns the arguments of the command line that an answer shows."""
    (found,) = re.findall(r"<pre><code>(.*?)</code></pre>", text, re.DOTALL)
    return shlex.split(html.unescape(found))[1:]


def sums_of(text: str) -> list[float]:
    """Returns what the units of each layer contribute together, as an answer says it."""
    return [float(one.replace("−", "-")) for one in re.findall(r"together contribute ([−0-9.e]+)<", text)]


@contextmanager
def visiting(
    file: Path | str, names: UnitNames | None = None, data: Path | None = None, rows: str | None = None
) -> Iterator[Visitor]:
    """A page of a file, and a visitor who has opened it."""
    place = Place(str(file), None, "auto", 1, {}, {}, file=str(file))
    with served(place) as (address, engine):
        reader = Reader(place, Picture(), engine, data, rows)
        with serving(lambda: AsyncClient(address), lambda client: Pages(client, reader, names)) as url:
            yield opened(url)

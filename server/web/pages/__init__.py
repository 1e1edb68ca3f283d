"""The pages, a file each: it says its addresses in `routes`, and what each answers.

| file | address |
|---|---|
| home | `/`: the models |
| explain | `/explain`: the form, and the places of the answers; `/prediction`: what the model says |
| answer | `/stream`: an answer that gets better while one looks |
| spine | `/spine`: the layers from the input to the target |
| units | `/units`, `/unit`: the units of a layer over a data set, and one of them |
| export | `/export`: all of it as one file |
| files | `/upload`, `/netron`, the style and the script |

A new page is a file here, a template of its name, and its line in `PAGES`.
"""

from __future__ import annotations

from starlette.routing import BaseRoute

from onnx_attribution.client.aio import AsyncClient
from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.server.web.desk import Desk
from onnx_attribution.server.web.pages import answer, explain, export, files, home, spine, units
from onnx_attribution.server.web.question import Reading

PAGES = (home, explain, answer, spine, units, export, files)


class Pages:
    """What the page shows. `names` are those of units; `close` removes the files that were given."""

    def __init__(self, client: AsyncClient, reading: Reading, names: UnitNames | None = None) -> None:
        self._desk = Desk(client, reading, names or UnitNames())

    def routes(self) -> list[BaseRoute]:
        return [route for page in PAGES for route in page.routes(self._desk)]

    def close(self) -> None:
        self._desk.uploads.close()

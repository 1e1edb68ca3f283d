"""`page [FILE]`: a page in the browser on which people look into a model who write no code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli import options
from onnx_attribution.server.cli.asker import Embedded, Place, asking, checked_address
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.named import names_of
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.reader import MOST_SAMPLES, Reader

if TYPE_CHECKING:
    from onnx_attribution.server.engine import Engine


@bundled(file="")
def page(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="NUMBER", help="Of the page on 127.0.0.1; 0: a free one.")
    ] = 0,
    open: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help=f"A data set as of the command audit, from which units have their examples; the first {MOST_SAMPLES} "
            "samples of it.",
        ),
    ] = None,
    rows: options.Rows = None,
    names: options.Names = None,
    picture: Picture,
    place: Place,
) -> None:
    """Opens a page in the browser: choose an input, a method and a target, and see what each layer contributes.

    With FILE, a server of it runs in this process; with --server, the page shows the models that are there. The page is
    for this machine only, and for whoever has its address with the key. Ctrl-C ends it.
    """
    from onnx_attribution.server.operate.signals import Signals

    signals = Signals()  # before the imports that take time
    from onnx_attribution.client.aio import AsyncClient
    from onnx_attribution.server.operate.logs import configure
    from onnx_attribution.server.web import Pages, in_browser, serving

    configure("warning")
    stdout = sys.stdout  # which libraries do not have while the file is used
    calls = names_of(names)
    with served(place) as (address, engine):
        link = place.login.link(address)
        reading = Reader(place, picture, engine, data, rows)
        named = calls(None if engine is None else Embedded(engine, Path(place.model)))
        if engine is not None:
            reading.data(engine.info(Path(place.model).name))
        signals.expect()
        with serving(
            lambda: AsyncClient(address, tls=link.tls, token=link.token),
            lambda client: Pages(client, reading, named),
            port,
        ) as url:
            print(f"{url}  (Ctrl-C ends it)", flush=True, file=stdout)
            with in_browser(url) if open else contextlib.nullcontext():
                signals.wait()


@contextlib.contextmanager
def served(place: Place) -> Iterator[tuple[str, Engine | None]]:
    """The address of the server: the one that is named, or one of this process that has the file."""
    if place.server is not None:
        yield checked_address(place), None
        return
    if not place.model:
        raise InvalidArgument("name a file, or a server: onnx-attribution page FILE, or --server HOST:PORT")
    from onnx_attribution.server.app import background
    from onnx_attribution.server.engine import Engine
    from onnx_attribution.server.settings import Settings

    with asking(place) as asker:
        engine, name = asker.asked
        assert isinstance(engine, Engine)
        engine.info(name)
        with background(engine, Settings(port=0, http=False, log_level="warning")) as (address, _):
            yield address, engine

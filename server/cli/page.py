"""`page [FILE]`: a page in the browser on which people look into a model who write no code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import MethodInfo
from onnx_attribution.server.cli import options
from onnx_attribution.server.cli.asker import Embedded, Place, asking, checked_address
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.dataset import read_dataset
from onnx_attribution.server.cli.explain import Question as Explained
from onnx_attribution.server.cli.inputs import parse_rows, read_inputs
from onnx_attribution.server.cli.named import names_of
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.pixels import SUFFIXES
from onnx_attribution.server.cli.samples import count_of, taken
from onnx_attribution.values import Array, AttributionRequest, ModelInfo

if TYPE_CHECKING:
    from onnx_attribution.server.engine import Engine
    from onnx_attribution.server.web import Files, Given, Question

BESIDE = (".npy", ".npz", ".json", *SUFFIXES)
MOST_SAMPLES = 256
"""Of a data set, where --rows says no others."""
MOST_BESIDE = 30
"""Files beside the model that are offered as inputs."""


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
    from onnx_attribution.server.web import Pages, serving

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
            if open:
                import webbrowser

                webbrowser.open(url)
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


@dataclass(frozen=True)
class Reader:
    """Reads files and texts as `explain` does."""

    at: Place
    picture: Picture
    engine: Engine | None
    dataset: Path | None = None
    rows: str | None = None
    read: dict[str, Dataset] = field(default_factory=dict)
    """The data set as each model takes it."""

    @property
    def has_data(self) -> bool:
        return self.dataset is not None

    def data(self, info: ModelInfo) -> Dataset | None:
        if self.dataset is not None and info.digest not in self.read:
            rows = slice(0, MOST_SAMPLES) if self.rows is None else parse_rows(self.rows)
            picture = replace(self.picture, said=info.preprocessing, notes=[])
            self.read[info.digest] = read_dataset(self.dataset, info, picture, rows)
        return self.read.get(info.digest)

    def item(self, info: ModelInfo, row: int) -> Given:
        from onnx_attribution.server.web import Given

        data = self.data(info)
        if data is None or self.dataset is None:
            raise InvalidArgument("the page has no data set: start it with --data DIR|FILE")
        if row >= len(data):
            raise InvalidArgument(f"there is no sample {row}; the data set has {len(data)}, the first is 0")
        item = data.items[row]
        first = 0 if self.rows is None else parse_rows(self.rows).start or 0
        words: list[str] = []
        notes: tuple[str, ...] = ()
        if self.dataset.suffix.lower() == ".npz":
            names = [f"{one.name}=" * (len(info.inputs) > 1) for one in info.inputs]
            words = [word for name in names for word in ("--input", f"{name}{self.dataset}")]
            words += [f"--rows={first + row}"]
        elif self.dataset.is_dir():
            words = ["--input", str(self.dataset / item.id), *_options_of(self.picture)]
            words += ["--resize"] * self.picture.resize
        else:
            notes = ("explain reads no tables: the command line lacks the input",)
        return Given(item.inputs, len(data), words, notes, True)

    @property
    def has_netron(self) -> bool:
        return self.engine is not None and find_spec("netron") is not None

    def netron(self) -> str:
        if not self.has_netron:
            raise InvalidArgument(
                "Netron opens files of this machine where it is installed: pip install netron"
            )
        host, port = import_module("netron").start(self.at.model, browse=False)
        return f"http://{host}:{port}"

    def beside(self, model: str) -> Mapping[str, Path]:
        if self.engine is None:
            return {}
        folder = Path(self.at.model).parent
        found = sorted(
            (one for one in folder.iterdir() if one.suffix.lower() in BESIDE and one.is_file()),
            key=lambda one: (one.suffix.lower() == ".json", one.name),  # which may be of another kind
        )
        return {one.name: one for one in found[:MOST_BESIDE]}

    def example(self, model: str) -> Given | None:
        from onnx_attribution.server.web import Given

        arrays = {} if self.engine is None else self.engine.example(model)
        if self.engine is None or not arrays:
            return None
        info = self.engine.info(model)
        return Given(arrays, count_of(arrays, info.inputs, info.batch))

    def arrays(self, info: ModelInfo, files: Files) -> Given:
        from onnx_attribution.server.web import Given

        every = [one.name for one in info.inputs]
        named = [
            (name, file) for given, file in files for name in ([given] if given or len(every) == 1 else every)
        ]
        texts = [f"{name}={file}" if name else str(file) for name, file in named]
        picture = replace(self.picture, said=info.preprocessing, notes=[])
        resized = False
        try:
            arrays = read_inputs(texts, info.inputs, picture, None, info.batch)
        except InvalidArgument as error:
            pictures = any(file.suffix.lower() in SUFFIXES for _, file in named)
            if error.reason != Reason.SHAPE_MISMATCH or picture.resize or not pictures:
                raise
            resized = True
            arrays = read_inputs(texts, info.inputs, replace(picture, resize=True), None, info.batch)
            picture.note("the picture is brought to the model's size")
        inside = None if self.engine is None else Path(self.at.model).parent
        words: list[str] = []
        for name, file in named:
            text = str(file) if file.parent == inside else file.name
            words += ["--input", f"{name}={text}" if name else text]
        words += _options_of(picture) + ["--resize"] * (resized or picture.resize)
        return Given(arrays, count_of(arrays, info.inputs, info.batch), words, picture.notes)

    def row(self, info: ModelInfo, arrays: Mapping[str, Array], row: int) -> Mapping[str, Array]:
        count = count_of(arrays, info.inputs, info.batch)
        if row >= count:
            raise InvalidArgument(f"there is no sample {row}; the file has {count}, the first is 0")
        return taken(arrays, {one.name: one for one in info.inputs}, info.batch, slice(row, row + 1))

    def request(
        self, question: Question, info: ModelInfo, about: MethodInfo, arrays: Mapping[str, Array]
    ) -> AttributionRequest:
        def some(text: str) -> tuple[str, ...]:
            return (text,) if text else ()

        if "=" not in question.baseline and question.baseline and not _is_number(question.baseline):
            raise InvalidArgument(
                f"baseline {question.baseline!r} is no number", reason=Reason.BASELINE_INVALID
            )
        asked = Explained(
            about.name, some(question.layer), (), some(question.target), (), (), some(question.baseline), (),
            bool(question.logit), False, (), question.parameters,
        )  # fmt: skip
        return asked.request(info, about, arrays, self.picture)

    def place(self, model: str) -> Sequence[str]:
        at = self.at
        if at.server is None:
            words = [at.file]
            for name, axis in at.batch_axes.items():
                words += ["--batch-axis", f"{name}={'none' if axis is None else axis}"]
            for name, shape in at.shapes.items():
                words += ["--shape", f"{name}={'x'.join(map(str, shape))}"]
            return words + (["--provider", at.provider] if at.provider != "auto" else [])
        words = [model, "--server", at.server]
        for option in ("ca", "certificate", "key"):
            value = getattr(at.login, option)
            words += [f"--{option}", value] if value else []
        return words  # the token stays in its variable


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _options_of(picture: Picture) -> list[str]:
    """The options that say how pictures become inputs, without --resize."""
    words: list[str] = []
    if picture.scale is not None:
        words += ["--scale", repr(picture.scale)]
    for option, numbers in (("mean", picture.mean), ("std", picture.std)):
        if numbers is not None:
            words += [f"--{option}={','.join(map(repr, numbers))}"]
    for option, word in (
        ("layout", picture.layout),
        ("colours", picture.colours),
        ("background", picture.background),
    ):
        words += [f"--{option}", word] if word else []
    return words

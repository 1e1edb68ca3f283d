"""How the page reads files and texts: as `explain` does, of which it shows the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import MethodInfo
from onnx_attribution.server.cli.asker import Place
from onnx_attribution.server.cli.dataset import read_dataset
from onnx_attribution.server.cli.explain import Question as Explained
from onnx_attribution.server.cli.files import is_file, parse_rows, read_file
from onnx_attribution.server.cli.inputs import parse_numbers, read_inputs, split_name, values_of
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.pixels import SUFFIXES
from onnx_attribution.server.cli.samples import count_of, taken
from onnx_attribution.values import Array, AttributionRequest, ModelInfo, TensorInfo

if TYPE_CHECKING:
    from onnx_attribution.server.engine import Engine
    from onnx_attribution.server.web import Files, Given, Question

BESIDE = (".npy", ".npz", ".json", *SUFFIXES)
MOST_SAMPLES = 256
"""Of a data set, where --rows says no others."""
MOST_TYPED = 64
"""Values of a sample that can be typed."""
MOST_BESIDE = 30
"""Files beside the model that are offered as inputs."""


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
    opened: list[str] = field(default_factory=list)
    """Where Netron shows the file, once it does."""

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
        words = [
            "--data",
            str(self.dataset),
            f"--rows={self._place(row, len(data))}",
            *_options_of(self.picture),
        ]
        words += ["--resize"] * self.picture.resize
        classes = next(
            (info.class_names[one.name] for one in info.outputs if one.name in info.class_names), ()
        )
        label = data.label_index(row, classes)
        return Given(data.items[row].inputs, len(data), words, is_row=True, label=label)

    def _place(self, row: int, samples: int) -> int:
        """Where in the file a sample of the chosen rows lies; from its end, where that is how they are chosen."""
        rows = slice(0, None) if self.rows is None else parse_rows(self.rows)
        start, stop = rows.start or 0, rows.stop or 0
        if start >= 0:
            return int(start + row)
        if stop <= 0:
            return int(stop - samples + row)
        raise InvalidArgument(f"--rows {self.rows} counts from both ends; count from one: 0:8, or -8:")

    @property
    def has_netron(self) -> bool:
        return self.engine is not None and find_spec("netron") is not None

    def netron(self) -> str:
        if not self.has_netron:
            raise InvalidArgument(
                "Netron opens files of this machine where it is installed: pip install netron"
            )
        if not self.opened:
            host, port = import_module("netron").start(self.at.model, browse=False)
            self.opened.append(f"http://{host}:{port}")
        return self.opened[0]

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
        texts = [_text(name, str(file)) for name, file in named]
        picture = replace(self.picture, said=info.preprocessing, notes=[])
        resized = False
        try:
            arrays = read_inputs(texts, info.inputs, picture, None, info.batch)
        except InvalidArgument as error:
            if not _would_fit_resized(error, picture, named):
                raise
            resized = True
            arrays = read_inputs(texts, info.inputs, replace(picture, resize=True), None, info.batch)
            picture.note("the picture is brought to the model's size")
        words = [word for name, file in named for word in ("--input", _text(name, self._shown(file)))]
        words += _options_of(picture) + ["--resize"] * (resized or picture.resize)
        count = count_of(arrays, info.inputs, info.batch)
        return Given(arrays, count, words, picture.notes, files=files)

    def sample(self, info: ModelInfo, given: Given, row: int) -> Mapping[str, Array]:
        if given.samples < 2 or given.is_row:
            return given.arrays
        if row >= given.samples:
            raise InvalidArgument(f"there is no sample {row}; the file has {given.samples}, the first is 0")
        known = {one.name: one for one in info.inputs}
        return taken(given.arrays, known, info.batch, slice(row, row + 1))

    def typed(self, info: ModelInfo) -> str:
        counts = [values_of(one) for one in info.inputs]
        if None in counts or sum(count or 0 for count in counts) > MOST_TYPED:
            return ""
        samples = {"string": "text", "bool": "true"}
        texts = [
            ",".join([samples.get(one.dtype, "1")] * (count or 0))
            for one, count in zip(info.inputs, counts, strict=True)
        ]
        return " ".join(f"{one.name}={text}" for one, text in zip(info.inputs, texts, strict=True))

    def values(self, info: ModelInfo, text: str) -> Given:
        from onnx_attribution.server.web import Given
        from onnx_attribution.server.web.question import option_of

        words, known = _words(text, "the input"), {one.name: one for one in info.inputs}
        if not (shape := self.typed(info)):
            raise InvalidArgument("samples of this model are too large to be typed; choose a file")
        for word in words:
            name, rest = split_name(word, tuple(known), strict=False)
            if is_file(word) or is_file(rest):
                raise InvalidArgument(f"{word!r} names a file; what is typed are values")
            if name is None and len(known) > 1:
                raise InvalidArgument(f"{word!r} is for no input; write it as {shape}")
        missing = [one for one in known if not any(word.startswith(f"{one}=") for word in words)]
        if missing and (len(known) > 1 or len(words) != 1):
            raise InvalidArgument(f"there is no value of {missing[0]!r}; write it as {shape}")
        try:
            arrays = read_inputs(words, info.inputs, self.picture, None, info.batch)
        except InvalidArgument as error:
            raise InvalidArgument(f"{text!r} is no sample; write it as {shape}") from error
        return Given(arrays, 1, [word for one in words for word in option_of("input", one)])

    def request(
        self, question: Question, info: ModelInfo, about: MethodInfo, given: Given, files: Mapping[str, Files]
    ) -> tuple[AttributionRequest, Sequence[str], Sequence[str]]:
        from onnx_attribution.server.web.question import option_of

        known = {one.name: one for one in info.inputs}
        words = [*given.options, *["--rows", question.row] * (given.samples > 1 and not given.is_row)]
        arrays = self.sample(info, given, question.number)
        baselines = _baselines(question.baseline, info)
        picture = replace(self.picture, said=info.preprocessing, notes=[])
        named = {field: _of_inputs(each, known) for field, each in files.items()}
        # Of a file that has one for each sample, that of this one.
        rows = {
            (field, name): f"[{question.number}]" * self._has_each(file, name, info, given.samples, field)
            for field, each in named.items()
            for name, file in each
        }

        def texts(field: str, *, shown: bool) -> list[str]:
            return [
                _text(name, f"{self._shown(file) if shown else file}{rows[field, name]}")
                for name, file in named.get(field, ())
            ]

        asked = Explained(
            about.name, _some(question.layer), (), tuple(question.target.split()), (),
            tuple(question.minus.split()), (*baselines, *texts("baseline_file", shown=False)),
            tuple(texts("references", shown=False)), bool(question.logit), False, (), question.parameters,
        )  # fmt: skip
        resized = False
        try:
            request = asked.request(info, about, arrays, picture)
        except InvalidArgument as error:
            if not _would_fit_resized(error, picture, [one for each in named.values() for one in each]):
                raise
            resized = "--resize" not in words
            request = asked.request(info, about, arrays, replace(picture, resize=True))
            picture.note("the picture of the baseline is brought to the model's size")
        for option, given_texts in (
            ("baseline", [*baselines, *texts("baseline_file", shown=True)]),
            ("references", texts("references", shown=True)),
        ):
            words += [word for text in given_texts for word in option_of(option, text)]
        for name in _ambiguous([file for each in (given.files, *files.values()) for _, file in each]):
            picture.note(
                f"two of the files are called {name!r}: the command needs one of them by another name"
            )
        return request, [*words, *["--resize"] * resized], picture.notes

    def _shown(self, file: Path) -> str:
        """A file on the command line: one that was sent has its name alone."""
        inside = None if self.engine is None else Path(self.at.model).parent
        return str(file) if file.parent == inside else file.name

    def _has_each(self, file: Path, name: str, info: ModelInfo, samples: int, field: str) -> bool:
        """Whether a file holds baselines of an input, or several, for each of the samples."""
        only = [one for one in info.inputs if name in (one.name, "" if len(info.inputs) == 1 else one.name)]
        if samples < 2 or file.suffix.lower() in SUFFIXES or not only:
            return False
        (one,) = only
        if one.batch_axis != 0 or one.shape is None or one.name not in info.sources:
            return False
        array = read_file(str(file), one, self.picture)
        return array.ndim == len(one.shape) + (field == "references") and len(array) == samples

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


def _ambiguous(files: Sequence[Path]) -> list[str]:
    """The names that several files have that differ."""
    known: dict[str, set[bytes]] = {}
    for file in {one.resolve() for one in files}:
        known.setdefault(file.name, set()).add(sha256(file.read_bytes()).digest())
    return [name for name, contents in known.items() if len(contents) > 1]


def _some(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _text(name: str, rest: str) -> str:
    """`NAME=REST`, or the rest alone."""
    return f"{name}={rest}" if name else rest


def _would_fit_resized(error: InvalidArgument, picture: Picture, files: Sequence[tuple[str, Path]]) -> bool:
    """Whether a refusal may be that of a picture of another size."""
    pictures = any(file.suffix.lower() in SUFFIXES for _, file in files)
    return error.reason == Reason.SHAPE_MISMATCH and not picture.resize and pictures


def _of_inputs(files: Files, known: Mapping[str, TensorInfo]) -> list[tuple[str, Path]]:
    """Files by input: an npz that has arrays of inputs' names is for these; others are for all sources."""
    found = []
    for name, file in files:
        names = [name]
        if not name and len(known) > 1 and file.suffix.lower() == ".npz":
            names = [one for one in _keys(file) if one in known] or [""]
        found += [(one, file) for one in names]
    return found


def _keys(file: Path) -> list[str]:
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as loaded:
            return list(loaded.files)
    except Exception:  # who reads it says what is wrong
        return []


def _words(text: str, what: str) -> list[str]:
    """The words of a text, of which those in quotation marks have spaces. Raises: InvalidArgument."""
    try:
        return shlex.split(text)
    except ValueError:
        raise InvalidArgument(f"{what} {text!r} has a quotation mark without its other") from None


def _baselines(text: str, info: ModelInfo) -> list[str]:
    """The baselines of a field of the form, which names no files: numbers, or of inputs of strings texts.

    Raises:
        InvalidArgument: one is neither.
    """
    known = {one.name: one for one in info.inputs}
    words = _words(text, "baseline")
    for word in words:
        name, rest = split_name(word, tuple(known), strict=False)
        if name in known and known[name].dtype == "string" and not is_file(rest):
            continue
        try:
            parse_numbers(rest if "," not in rest else "", "baseline")
        except InvalidArgument:
            raise InvalidArgument(
                f"baseline {word!r} is no number, and not of the form NAME=NUMBER; one of a file is chosen below it",
                reason=Reason.BASELINE_INVALID,
            ) from None
    return words


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

"""What is asked on the page: it stands whole in the address of the page, and as a command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urlencode

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import DEFAULT, MethodInfo
from onnx_attribution.values import Array, AttributionRequest, ModelInfo

LONGEST = 1000
"""Characters of one field."""
OTHER = "b."
"""Before the names of the fields of the question beside the first."""

Files = Sequence[tuple[str, Path]]
"""Files with the input that each is for; "" where it is for the only one, or for all of which it holds an array."""


@dataclass(frozen=True)
class Given:
    """The arrays of files, how many samples they hold, the options that say the same on the command line, and notes.

    `is_row`: whether the arrays are already those of the sample that is asked for, and the options name it.
    """

    arrays: Mapping[str, Array]
    samples: int
    options: Sequence[str] = ()
    notes: Sequence[str] = ()
    is_row: bool = False


class Reading(Protocol):
    """How files and texts become requests, and what a model is called on the command line."""

    @property
    def has_data(self) -> bool:
        """Whether there is a data set."""
        ...

    @property
    def has_netron(self) -> bool:
        """Whether the model's file is here, and Netron is installed."""
        ...

    def netron(self) -> str:
        """Opens the file in Netron: the address of it. Raises: InvalidArgument: that cannot be."""
        ...

    def beside(self, model: str) -> Mapping[str, Path]:
        """Files that are offered as inputs, by name."""
        ...

    def example(self, model: str) -> Given | None:
        """The example that belongs to the model; None where it has none, or where it is not here."""
        ...

    def arrays(self, info: ModelInfo, files: Files) -> Given:
        """Raises: InvalidArgument: a file cannot be used."""
        ...

    def data(self, info: ModelInfo) -> Dataset | None:
        """The data set from which units have their examples. Raises: InvalidArgument: it does not fit the model."""
        ...

    def item(self, info: ModelInfo, row: int) -> Given:
        """One sample of the data set. Raises: InvalidArgument: there is none of that number."""
        ...

    def row(self, info: ModelInfo, arrays: Mapping[str, Array], row: int) -> Mapping[str, Array]:
        """One sample of several. Raises: InvalidArgument: there is no such sample."""
        ...

    def request(
        self, question: Question, info: ModelInfo, about: MethodInfo, arrays: Mapping[str, Array]
    ) -> AttributionRequest:
        """Raises: InvalidArgument: a text cannot be meant."""
        ...

    def place(self, model: str) -> Sequence[str]:
        """The arguments of `explain` that say where the model is."""
        ...


@dataclass(frozen=True)
class Question:
    """The fields of the form, as texts. Those of `explain` mean what they mean there."""

    model: str = ""
    input: str = ""
    row: str = "0"
    method: str = DEFAULT.name
    target: str = ""
    layer: str = ""
    baseline: str = ""
    parameter: str = ""
    logit: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str], prefix: str = "", base: Question | None = None) -> Question:
        """The question of a form. What is left out is as in `base`. Raises: InvalidArgument: a field is too long."""
        fields = {}
        for name in cls.__dataclass_fields__:
            text = given.get(prefix + name, "").strip()
            if len(text) > LONGEST:
                raise InvalidArgument(f"{name} is longer than {LONGEST} characters")
            if text:
                fields[name] = text
        asked = replace(base or cls(), **fields)
        for name in ("target", "baseline", "parameter"):
            if "@" in getattr(asked, name):
                raise InvalidArgument(
                    f"{name} {getattr(asked, name)!r} names a file; the page takes numbers and names only",
                    reason=Reason.PARAMETER_INVALID,
                )
        return asked

    @classmethod
    def both(cls, given: Mapping[str, str]) -> list[Question]:
        """The question, and the one beside it, where there is one that differs."""
        first = cls.of(given)
        second = cls.of(given, OTHER, first)
        return [first] if second == first else [first, second]

    @property
    def number(self) -> int:
        """The sample. Raises: InvalidArgument: it is none."""
        if not self.row.isascii() or not self.row.isdecimal() or len(self.row) > 9:
            raise InvalidArgument(f"sample {self.row!r} is no number; the first is 0")
        return int(self.row)

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.parameter.split())

    def changed(self, **fields: str) -> Self:
        return replace(self, **fields)

    def command(self, place: Sequence[str], inputs: Sequence[str], samples: int = 1) -> str:
        """The command line that gives the same numbers."""
        words = ["onnx-attribution", "explain", *place, *inputs]
        words += ["--rows", self.row] if samples > 1 else []
        words += ["--method", self.method.replace("_", "-")]
        given = [("layer", self.layer), ("target", self.target), ("baseline", self.baseline)]
        for option, text in [*given, *(("parameter", one) for one in self.parameters)]:
            if text:  # a number below 0 looks like an option
                words += [f"--{option}={text}"] if text.startswith("-") else [f"--{option}", text]
        words += ["--logit"] if self.logit else []
        return shlex.join(words)


def moved(questions: Sequence[Question], which: int, **fields: str) -> list[Question]:
    """The questions with other fields: those of one of them, and of the other where it had the same there."""
    before = questions[which]

    def of(one: Question) -> dict[str, str]:
        return {name: text for name, text in fields.items() if getattr(one, name) == getattr(before, name)}

    return [one.changed(**of(one)) for one in questions]


def query(questions: Sequence[Question], **more: str) -> str:
    """The part of an address behind the question mark."""
    defaults, fields = Question(), dict[str, str]()
    first = questions[0]
    for name in Question.__dataclass_fields__:
        if getattr(first, name) != getattr(defaults, name):
            fields[name] = getattr(first, name)
    for second in questions[1:]:
        for name in Question.__dataclass_fields__:
            if getattr(second, name) != getattr(first, name):
                fields[OTHER + name] = getattr(second, name)
    return urlencode({**fields, **more})

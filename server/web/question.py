"""What is asked on the page: it stands whole in the address of the page, and as a command line."""

from __future__ import annotations

import re
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

    `is_row`: whether the arrays are already those of the sample that is asked for, and the options name it. `label` is
    the index of that sample's class, if it is known; `files` are those that were read.
    """

    arrays: Mapping[str, Array]
    samples: int
    options: Sequence[str] = ()
    notes: Sequence[str] = ()
    is_row: bool = False
    label: int | None = None
    files: Files = ()


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

    def typed(self, info: ModelInfo) -> str:
        """What a sample looks like that is typed, as `age=29 sex=female`; "" where samples are too large for that."""
        ...

    def values(self, info: ModelInfo, text: str) -> Given:
        """The sample that was typed. Raises: InvalidArgument: it is none."""
        ...

    def sample(self, info: ModelInfo, given: Given, row: int) -> Mapping[str, Array]:
        """One sample of what is given. Raises: InvalidArgument: there is none of that number."""
        ...

    def data(self, info: ModelInfo) -> Dataset | None:
        """The data set from which units have their examples. Raises: InvalidArgument: it does not fit the model."""
        ...

    def item(self, info: ModelInfo, row: int) -> Given:
        """One sample of the data set. Raises: InvalidArgument: there is none of that number."""
        ...

    def request(
        self, question: Question, info: ModelInfo, about: MethodInfo, given: Given, files: Mapping[str, Files]
    ) -> tuple[AttributionRequest, Sequence[str], Sequence[str]]:
        """The request about one sample of what is given, the options that say the same of it on the command line, its
        inputs for one, and notes. `files` are by the fields of the question that name some.

        Raises:
            InvalidArgument: a text or a file cannot be meant.
        """
        ...

    def place(self, model: str) -> Sequence[str]:
        """The arguments of `explain` that say where the model is."""
        ...


@dataclass(frozen=True)
class Question:
    """The fields of the form, as texts. Those of `explain` mean what they mean there; `input`, `baseline_file` and
    `references` are keys of files, `values` is an input that was typed, and `own_label` makes the label of a sample of
    the data set its target."""

    model: str = ""
    input: str = ""
    values: str = ""
    row: str = "0"
    method: str = DEFAULT.name
    target: str = ""
    minus: str = ""
    own_label: str = ""
    layer: str = ""
    baseline: str = ""
    baseline_file: str = ""
    references: str = ""
    parameter: str = ""
    logit: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str], prefix: str = "", base: Question | None = None) -> Question:
        """The question of a form. What is left out is as in `base`, and what is given as empty is empty.

        Raises:
            InvalidArgument: a field is too long.
        """
        fields = {}
        for name in cls.__dataclass_fields__:
            text = given.get(prefix + name, "").strip()
            if len(text) > LONGEST:
                raise InvalidArgument(f"{name} is longer than {LONGEST} characters")
            if text or (base is not None and prefix + name in given and name in MAY_BE_EMPTY):
                fields[name] = text
        for group in EITHER:  # a field of one in the second question is in the place of those in the first
            if base is not None and any(fields.get(name) for name in group):
                fields = {**dict.fromkeys(group, ""), **fields}
        asked = replace(base or cls(), **fields)
        for name in ("values", "target", "minus", "baseline", "parameter"):
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

    def about(self, given: Given) -> Self:
        """The question about its sample alone: of targets for each sample that of this one, or its label.

        Raises:
            InvalidArgument: it has no label, or targets are not one for each sample.
        """
        if not self.own_label:
            return replace(
                self, target=self._own("target", given.samples), minus=self._own("minus", given.samples)
            )
        if self.target:
            raise InvalidArgument(
                f"the target is {self.target!r} or each sample's own label, not both",
                reason=Reason.TARGET_INVALID,
            )
        if given.label is None:
            raise InvalidArgument(
                "the sample has no label that is a class of the model; name a target",
                reason=Reason.TARGET_INVALID,
            )
        return replace(self, own_label="", target=str(given.label), minus=self._own("minus", given.samples))

    def _own(self, name: str, samples: int) -> str:
        """The text of a field for this sample; of one sample, several are elements that are summed."""
        words = re.sub(r"\s*([,:])\s*", r"\1", getattr(self, name)).split()
        if samples == 1 or len(words) < 2:
            return " ".join(words)
        if len(words) != samples:
            raise InvalidArgument(
                f"{name} says {len(words)} for {samples} samples; one is for all of them, and several are one for each",
                reason=Reason.TARGET_INVALID,
            )
        return str(words[self.number])

    def command(self, place: Sequence[str], options: Sequence[str]) -> str:
        """The command line that gives the same numbers; `options` are those of its inputs and baselines."""
        words = ["onnx-attribution", "explain", *place, *options, "--method", self.method.replace("_", "-")]
        given = [("layer", [self.layer]), ("target", self.target.split()), ("minus", self.minus.split())]
        for option, texts in [*given, ("parameter", self.parameters)]:
            words += [word for text in texts for word in option_of(option, text)]
        return shlex.join([*words, *["--logit"] * bool(self.logit)])


MAY_BE_EMPTY = frozenset(Question.__dataclass_fields__) - {"model", "input", "values", "row", "method"}
EITHER = (("baseline", "baseline_file", "references"), ("target", "own_label"))


def option_of(name: str, text: str) -> list[str]:
    """An option with its value, none where there is none; a number below 0 looks like an option."""
    if not text:
        return []
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


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

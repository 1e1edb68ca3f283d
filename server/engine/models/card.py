"""The small file beside a model, its card: what it is, the names of its classes, how inputs are made, an example.

Beside NAME.onnx it is NAME.toml. What is wrong with it makes the model one that cannot be loaded: a card that nobody
reads would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.select.names import close_names
from onnx_attribution.values import Array, Order, Preprocessing, TensorInfo

Size = int | str | None


@dataclass(frozen=True)
class Card:
    """What a card says, whose file has this name. `example` has by input an array, of the file `example_file`."""

    name: str = ""
    description: str = ""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)
    example: Mapping[str, Array] = field(default_factory=dict)
    example_file: str = ""

    def refuse(self, key: str, why: str) -> NoReturn:
        """Raises: ModelError, which names the file and the key."""
        raise refusal(self.name, key, why)

    def example_for(self, inputs: Sequence[TensorInfo]) -> dict[str, Array]:
        """The example in the types of a model's inputs.

        Raises:
            ModelError: an array is missing, too many, or of another type or shape.
        """
        if not self.example_file:
            return {}
        key = f"example {self.example_file!r}"
        known = [one.name for one in inputs]
        for name in self.example:
            if name not in known:
                self.refuse(key, f"{name!r} is no input of the model; {nearest(name, known)}")
        found = {}
        for one in inputs:
            if one.name not in self.example:
                self.refuse(key, f"there is no array for input {one.name!r}")
            found[one.name] = self._typed(key, self.example[one.name], one)
        return found

    def _typed(self, key: str, array: Array, info: TensorInfo) -> Array:
        kind = np.dtype(object if info.dtype == "string" else info.dtype)
        alike = {"f": "fV", "i": "iu", "u": "iu", "b": "b", "U": "O", "S": "O", "T": "O"}
        if array.dtype != kind and kind.kind not in alike.get(array.dtype.kind, ""):
            self.refuse(key, f"{info.name!r} is of type {array.dtype.name}; the model takes {info.dtype}")
        with np.errstate(over="ignore"):
            cast = array.astype(kind)
        if array.dtype.kind in "iu" and not np.array_equal(cast, array):
            self.refuse(key, f"{info.name!r} holds numbers outside {info.dtype}")
        shape = info.shape
        if shape is not None and (
            len(shape) != array.ndim
            or any(isinstance(d, int) and d != n for d, n in zip(shape, array.shape, strict=True))
        ):
            self.refuse(key, f"{info.name!r} has shape {list(array.shape)}; the model takes {_text(shape)}")
        return cast

    def check(
        self,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        tensors: Collection[str],
        rows: Mapping[str, int | None],
        scores: str | None,
    ) -> None:
        """Compares the card with the model: its inputs, outputs and tensors; `rows` are the batch axes of the outputs,
        `scores` is the float tensor before outputs that hold none.

        Raises:
            ModelError: a name that is none of them, or sizes that are not the model's.
        """
        instead = f"; the scores are {scores!r}" if scores else ""
        by_name = {one.name: one for one in outputs}
        for name, names in self.class_names.items():
            key = f"class_names.{name}"
            if name not in by_name:
                if name not in tensors:
                    self.refuse(key, f"{name!r} is no output of the model; {nearest(name, list(by_name))}")
                continue
            shape = by_name[name].shape
            if shape is None:
                self.refuse(key, f"output {name!r} is no tensor{instead}")
            own = [d for axis, d in enumerate(shape) if axis != rows.get(name)]
            if not any(d == len(names) or not isinstance(d, int) for d in own):
                self.refuse(
                    key,
                    f"there are {len(names)} names, and output {name!r} has shape {_text(shape)}: no axis for "
                    f"{'them' if len(names) > 1 else 'it'}{instead}",
                )
        by_name = {one.name: one for one in inputs}
        for name, way in self.preprocessing.items():
            if name not in by_name:
                self.refuse(
                    f"preprocessing.{name}",
                    f"{name!r} is no input of the model; {nearest(name, list(by_name))}",
                )
            if way.kind == "image":
                self._check_image(name, way, by_name[name])

    def _check_image(self, name: str, way: Preprocessing, info: TensorInfo) -> None:
        """Refuses sizes that no order of the axes gives the input."""
        key, shape = f"preprocessing.{name}", info.shape
        if shape is None:
            return
        own = [d for axis, d in enumerate(shape) if axis != (0 if len(shape) == 4 else info.batch_axis)]
        if len(own) not in (2, 3) or info.dtype in ("string", "bool"):
            self.refuse(f"{key}.kind", f"input {name!r} takes {info.dtype} {_text(shape)}, no image")
        orders: tuple[Order, ...] = (way.layout,) if way.layout else ("chw", "hwc")
        planes = (
            [own[1:] + own[:1] if order == "chw" else own for order in orders] if len(own) == 3 else [own]
        )
        size: tuple[Size, ...] = way.size or (None, None)
        fits = [plane for plane in planes if _fit(size, plane[:2])]
        if not fits:
            self.refuse(f"{key}.size", f"{list(size)} is not that of input {name!r}, {_text(shape)}")
        channels = [plane[2] if len(plane) == 3 else 1 for plane in fits]
        if way.colours is not None and way.colours != "gray" and all(c == 1 for c in channels):
            self.refuse(f"{key}.colours", f"input {name!r}, {_text(shape)}, has one channel: 'gray'")
        for word, values in (("mean", way.mean), ("std", way.std)):
            if len(values) > 1 and not any(_fit((len(values),), (c,)) for c in channels):
                self.refuse(
                    f"{key}.{word}",
                    f"there are {len(values)} numbers, and no axis of input {name!r}, {_text(shape)}, has as many "
                    "channels",
                )


def refusal(file: str, key: str, why: str) -> ModelError:
    return ModelError(f"{file}: {key}: {why}", reason=Reason.CARD_INVALID, file=file, key=key)


def nearest(name: str, known: Sequence[str]) -> str:
    """In words, the known names that are like a name, or all."""
    close = close_names(name, known)
    return f"close is {listed(close)}" if close else f"there are {listed(known)}"


def listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20)


def _text(shape: Sequence[Size]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def _fit(one: Sequence[Size], other: Sequence[Size]) -> bool:
    """Whether sizes can be equal; those that are not said can be any."""
    return all(
        a == b or not isinstance(a, int) or not isinstance(b, int) for a, b in zip(one, other, strict=True)
    )

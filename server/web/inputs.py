"""What can be explained: the model's example, the data set, files beside the model, and files that were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from onnx_attribution.errors import AttributionError, InvalidArgument, Reason
from onnx_attribution.server.web.question import Files, Given, Question, Reading
from onnx_attribution.server.web.uploads import Uploads
from onnx_attribution.values import Array, ModelInfo, TensorInfo

EXAMPLE, DATA, VALUES, BESIDE = "example", "data", "values", "beside:"
"""Keys of inputs; of files that were sent the uploads have them."""
TRIED = 8
"""Files beside the model that are read until one of them fits."""


class Inputs:
    """The inputs of a model by their keys."""

    def __init__(self, reading: Reading, uploads: Uploads) -> None:
        self._reading = reading
        self._uploads = uploads

    def choices(self, question: Question, info: ModelInfo) -> dict[str, str]:
        """What may be taken as an input, by its key: in words."""
        found = {}
        if question.values and self._reading.typed(info):
            found[VALUES] = "what is typed below"
        if self._reading.example(question.model) is not None:
            found[EXAMPLE] = "the model's example"
        if self._reading.has_data:
            found[DATA] = "the data set"
        return found | self.files_for(question.model, question.input)

    def files_for(self, model: str, key: str) -> dict[str, str]:
        """The files that may be taken for a field that has this key, by key: in words."""
        found = {f"{BESIDE}{name}": name for name in self._reading.beside(model)}
        return found if key in ("", EXAMPLE, DATA, VALUES, *found) else found | {key: self.called(key)}

    def called(self, key: str) -> str:
        """The names of the files of a key; "" where they are not here any more."""
        if key.startswith(BESIDE):
            return key.removeprefix(BESIDE)
        try:
            return ", ".join(file.name for _, file in self._uploads.files(key))
        except InvalidArgument:
            return ""

    async def fitting(self, question: Question, info: ModelInfo, choices: Mapping[str, str]) -> str:
        """The first of the choices that can be used, or the first."""
        for key in list(choices)[:TRIED]:
            with suppress(AttributionError, KeyError):
                given = await self.given(question.changed(input=key), info)
                if all(_fits(given.arrays[one.name], one) for one in info.inputs):
                    return key
        return next(iter(choices))

    async def given(self, question: Question, info: ModelInfo) -> Given:
        """The arrays of the input. Raises: AttributionError: there are none, or they cannot be used."""
        if not question.input:
            raise InvalidArgument("choose a file with the input that is to be explained")
        if question.input == EXAMPLE:
            example = await asyncio.to_thread(self._reading.example, question.model)
            if example is None:
                raise InvalidArgument(
                    "the model has no example; choose a file", reason=Reason.PARAMETER_INVALID
                )
            return example
        if question.input == VALUES:
            return self._reading.values(info, question.values)
        if question.input == DATA:
            return await asyncio.to_thread(self._reading.item, info, question.number)
        files = self.files(question.model, question.input)
        return await asyncio.to_thread(self._reading.arrays, info, files)

    def files(self, model: str, key: str) -> Files:
        """The files of a key. Raises: InvalidArgument: they are not here."""
        if not key.startswith(BESIDE):
            return self._uploads.files(key)
        name = key.removeprefix(BESIDE)
        known = self._reading.beside(model)
        if name not in known:
            raise InvalidArgument(
                f"there is no file {name!r} beside the model", reason=Reason.PARAMETER_INVALID
            )
        return (("", known[name]),)


def _fits(array: Array, one: TensorInfo) -> bool:
    """Whether an array has the shape of an input, but for its samples."""
    return one.shape is None or (
        array.ndim == len(one.shape)
        and all(
            axis == one.batch_axis or not isinstance(size, int) or size == array.shape[axis]
            for axis, size in enumerate(one.shape)
        )
    )

"""A model behind an engine or a client, and how it is asked for maps: what all metrics work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Explain, Floats, Forward, Inputs, Maps, index_of
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Method
from onnx_attribution.values import Array, Attribution, AttributionRequest, Baseline, ModelInfo, Target

Class = int | tuple[int, ...] | None
Classes = Sequence[Class] | None
"""For each sample the index of the explained number in its scores; None: there is one number."""


@dataclass(frozen=True)
class Subject:
    """A model by its name, and what is explained of it.

    `asked` is an `Engine` or a `Client`, or anything with the calls of either. `output` names the scores (default: the
    only float output); `target` what a map explains where that is not the scores themselves, such as a hidden tensor
    of the same classes; with `logit` what the final activation of the scores is made of. `layer` is what maps are of
    (default: the sources). `source`, `baselines` are those of a request.
    """

    asked: Any
    model: str
    output: str | None = None
    target: str | None = None
    logit: bool = False
    layer: str | None = None
    source: Sequence[str] = ()
    baselines: Mapping[str, Baseline] = field(default_factory=dict)

    @property
    def is_embedded(self) -> bool:
        """Whether the model is one of an engine in this process."""
        return hasattr(self.asked, "info")

    def info(self) -> ModelInfo:
        """What is known of the model."""
        found = self.asked.info(self.model) if self.is_embedded else self.asked.model(self.model)
        assert isinstance(found, ModelInfo)
        return found

    def scores_name(self) -> str:
        """The output that holds the scores.

        Raises:
            InvalidArgument: it is not named, and there is not exactly one output of floats.
        """
        if self.output is not None:
            return self.output
        outputs = self.info().outputs
        floats = [one.name for one in outputs if one.dtype.startswith(("float", "bfloat", "double"))]
        if len(floats) != 1:
            listed = ", ".join(one.name for one in outputs)
            raise InvalidArgument(f"name the output that holds the scores: {listed}", parameter="output")
        return floats[0]

    def scores(self, inputs: Inputs) -> Floats:
        """The scores `[samples, *unit]`."""
        name = self.scores_name()
        found = self.asked.predict(self.model, dict(inputs), [name])
        return np.asarray(found[name], np.float64)

    def classes(self, inputs: Inputs) -> Classes:
        """The largest score of each sample, which is what is explained from then on; None where there is one number.

        Raises:
            InvalidArgument: scores have several axes of several elements, so that no class is meant.
        """
        found = self.scores(inputs)
        unit = found.shape[1:]
        if sum(size > 1 for size in unit) > 1:
            raise InvalidArgument(
                f"the scores of a sample have the shape {list(unit)}: say which of them is explained",
                parameter="classes",
            )
        if found[:1].size < 2:
            return None
        top = found.reshape(len(found), -1).argmax(axis=1)
        return [index_of([int(i) for i in np.unravel_index(int(k), unit)]) for k in top]

    def attribute(self, method: Method | str, inputs: Inputs, classes: Classes = None) -> Attribution:
        """The attribution of the classes, sample by sample."""
        index: Any = None if classes is None else list(classes)
        if index is not None and len(index) == 1:
            (index,) = index
        tensor = self.target if self.target is not None else self.output
        return self.ask(method, inputs, target=Target(tensor, index, logit=self.logit))

    def ask(
        self, method: Method | str, inputs: Inputs, *, layers: Sequence[str] | None = None, **options: Any
    ) -> Attribution:
        """The answer to a request about this model: what it names of source, layer and baselines is in it already."""
        own = () if self.layer is None else (self.layer,)
        options |= {
            "method": method,
            "layers": own if layers is None else layers,
            "source": tuple(self.source),
            "baselines": dict(self.baselines),
        }
        if self.is_embedded:
            found = self.asked.attribute(AttributionRequest(self.model, dict(inputs), **options))
        else:
            found = self.asked.attribute(self.model, dict(inputs), **options)
        assert isinstance(found, Attribution)
        return found

    def maps(self, method: Method | str, inputs: Inputs, classes: Classes = None) -> Maps:
        """The values of every layer that is answered: the sources, unless a layer is named."""
        answer = self.attribute(method, inputs, classes)
        return {name: np.asarray(one.values, np.float64) for name, one in answer.layers.items()}

    def explaining(self, method: Method | str, classes: Classes = None) -> Explain:
        """From inputs to the maps of these classes."""
        return lambda inputs: self.maps(method, inputs, classes)

    def forward(self, classes: Classes = None) -> Forward:
        """From inputs to the scores of these classes."""
        return lambda inputs: chosen(self.scores(inputs), classes)

    def named(self, model: str) -> Subject:
        """The same of another model."""
        return replace(self, model=model)

    def randomised(self, **options: Any) -> AbstractContextManager[Any]:
        """The stages of a parameter randomisation, as `Engine.randomised` gives them.

        Raises:
            InvalidArgument: the model is served; its file is not here.
        """
        if not hasattr(self.asked, "randomised"):
            raise InvalidArgument(
                "a served model's parameters cannot be drawn anew: the file is with the server; give it to an Engine, "
                "Engine().add(name, file), and ask that",
                parameter="asked",
            )
        found: AbstractContextManager[Any] = self.asked.randomised(self.model, **options)
        return found


def chosen(scores: Array, classes: Classes) -> Floats:
    """Of each sample the score of its class."""
    values = np.asarray(scores, np.float64)
    if classes is None:
        if values.size != len(values):
            raise InvalidArgument(
                f"the scores of a sample have the shape {list(values.shape[1:])}: say which of them is explained",
                parameter="classes",
            )
        return values.reshape(len(values))
    if len(classes) != len(values):
        raise InvalidArgument(f"{len(classes)} classes for {len(values)} samples", parameter="classes")
    found = []
    for row, one in zip(values, classes, strict=True):
        index = () if one is None else one if isinstance(one, tuple) else (one,)
        if len(index) != row.ndim:
            raise InvalidArgument(
                f"the class {one!r} is no single element of scores of shape {list(row.shape)}",
                parameter="classes",
            )
        found.append(float(row[index]))
    return np.array(found)

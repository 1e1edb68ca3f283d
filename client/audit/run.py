"""An audit as steps, each of which is done once: attributions of each sample, then the checks that need them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np

from onnx_attribution.client.audit.arrays import Maps
from onnx_attribution.client.audit.data import Dataset, Item
from onnx_attribution.client.audit.records import channels_of, numbers_of, plain
from onnx_attribution.client.audit.state import State
from onnx_attribution.client.audit.verdict import Finding
from onnx_attribution.client.render.inputs import shown_of
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.methods import Method, MethodInfo
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    Baseline,
    LayerInfo,
    ModelInfo,
    Target,
)

Aim = Literal["predicted", "label"] | int
LARGEST = 1 << 22
"""Numbers of one layer of which maps of channels are kept."""
TOGETHER = 16
"""Samples of one request."""


class Model(Protocol):
    """The model that is audited: `asked` is an engine or a client, and its name there."""

    @property
    def asked(self) -> tuple[Any, str]: ...

    def info(self) -> ModelInfo: ...

    def layers(self, pattern: str) -> list[LayerInfo]: ...

    def methods(self) -> list[MethodInfo]: ...

    def attribute(self, request: AttributionRequest) -> Attribution: ...

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]: ...


@dataclass(frozen=True)
class Settings:
    """What is asked of an audit. `layers` are hidden ones, whose flow and neurons are reported; `baseline` is in words
    what `baselines` are; `logit` says whether the target is what a final activation is made of, None: where there is
    one, since a saturated activation has no gradient for any method."""

    methods: Mapping[str, Method]
    layers: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    aim: Aim = "predicted"
    tensor: str | None = None
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    baseline: str = "0"
    seed: int = 0
    logit: bool | None = None


@dataclass(frozen=True)
class Step:
    """Something that is done once, and kept under its name: numbers and arrays."""

    name: str
    words: str
    do: Callable[[], tuple[Mapping[str, Any], Mapping[str, Array]]]


class Check(Protocol):
    """What more is tried once there are attributions of all samples."""

    name: str

    def planned(self, audit: Audit) -> int:
        """About how many steps there are."""
        ...

    def steps(self, audit: Audit) -> Iterator[Step]:
        """What is to be done. Raises: AttributionError: it cannot be done with this model."""
        ...

    def findings(self, audit: Audit) -> list[Finding]:
        """What its metrics say of each method."""
        ...

    def found(self, audit: Audit) -> dict[str, Any] | None:
        """What stands in the report under the name of the check."""
        ...


class Audit:
    """An audit of one model over one data set. `run` does what is not done yet; then `state` has all of it.

    `data` are the samples that can be explained, `left_out` the others by name, each with the reason.

    Raises:
        InvalidArgument: no sample can be explained.
    """

    def __init__(
        self, model: Model, data: Dataset, settings: Settings, state: State, checks: Sequence[Check] = ()
    ) -> None:
        self.model, self.settings, self.state, self.checks = model, settings, state, checks
        self.asked, self.name = model.asked
        self.info = model.info()
        self.facts = {one.name: one for one in model.methods()}
        self.skipped: dict[str, str] = {}
        self.data, self.left_out = self._usable(data)
        self._kept: dict[int, dict[str, Any]] = {}

    def _usable(self, data: Dataset) -> tuple[Dataset, dict[str, str]]:
        """The samples without those that would spoil every mean, and why those are left out."""
        count = self._class_count() if self.settings.aim == "label" else None
        kept, left_out = [], {}
        for k, item in enumerate(data.items):
            broken = [name for name in self.settings.source or self.info.sources if _is_broken(item, name)]
            if broken:
                left_out[item.id] = f"{broken[0]} holds NaN or infinite numbers"
            elif self.settings.aim == "label" and data.label_index(k, self.classes(), count) is None:
                left_out[item.id] = "it has no label that is the index of a class"
            else:
                kept.append(item)
        if not kept and data.items:
            name, reason = next(iter(left_out.items()))
            raise InvalidArgument(f"no sample can be explained; {name!r}: {reason}")
        return Dataset(data.name, kept, data.features), left_out

    def _class_count(self) -> int | None:
        """The number of classes, where the output says it."""
        names = {self.settings.tensor} if self.settings.tensor else {one.name for one in self.info.outputs}
        shapes = [
            one.shape for one in self.info.outputs if one.name in names and one.dtype.startswith("float")
        ]
        if len(shapes) != 1 or not shapes[0] or len(shapes[0]) != 2:
            return None
        size = shapes[0][-1]
        return size if isinstance(size, int) and size > 1 else None

    def run(self, progress: Callable[[int, int, str], None] = lambda done, planned, words: None) -> None:
        """Does every step that is not done. `progress` is told how many are, of about how many, and which is next.

        A check that cannot be done with this model is `skipped`, with the reason.
        """
        planned, done = len(self.data) + sum(one.planned(self) for one in self.checks), 0
        for step in chain(self._items(), *(self._steps(check) for check in self.checks)):
            if not self.state.has(step.name):
                progress(done, max(planned, done + 1), step.words)
                self.state.save(step.name, *step.do())
            done += 1
        progress(done, done, "")

    def _steps(self, check: Check) -> Iterator[Step]:
        if not any(self.answered(k) for k in range(len(self.data))):
            self.skipped[check.name] = "no method has an answer"
            return
        try:
            yield from check.steps(self)
        except AttributionError as error:
            self.skipped[check.name] = error.message

    # --- what is kept

    def item(self, k: int) -> dict[str, Any]:
        """The numbers of a sample."""
        if k not in self._kept:
            self._kept[k] = self.state.numbers(item_name(k))
        return self._kept[k]

    def maps(self, k: int, method: str) -> dict[str, Array]:
        """The maps of a sample by layer: those of the method's own layers."""
        return self.kept(item_name(k), f"map/{method}/")

    def hidden(self, k: int, method: str, layer: str) -> dict[str, Array]:
        """Of a hidden layer `sums` of its channels, and of the `strongest` the `maps`."""
        return self.kept(item_name(k), f"hidden/{method}/{layer}/")

    def kept(self, step: str, prefix: str) -> dict[str, Array]:
        """The arrays of a step whose names begin so, by the rest of their names."""
        found = self.state.arrays(step, prefix)
        return {name.removeprefix(prefix): array for name, array in found.items()}

    def answered(self, k: int) -> list[str]:
        """The methods that have an answer for a sample."""
        return [name for name, one in self.item(k)["methods"].items() if "error" not in one]

    @cached_property
    def everywhere(self) -> list[str]:
        """The methods that have an answer for all samples: those that can be compared."""
        return [
            name
            for name in self.settings.methods
            if all(name in self.answered(k) for k in range(len(self.data)))
        ]

    @property
    def flow_methods(self) -> list[str]:
        """The methods whose attributions of hidden layers sum to the change."""
        return [
            name
            for name, method in self.settings.methods.items()
            if (about := self.facts.get(method.name)) and about.sums_to and not about.layer_is_source
        ]

    # --- what is asked

    def classes(self) -> tuple[str, ...]:
        """The names of the classes of the target, where they are known."""
        names = self.info.class_names
        return names.get(self.settings.tensor or "", next(iter(names.values()), ()))

    @cached_property
    def logit(self) -> bool:
        """Whether the target is a logit."""
        if self.settings.logit is not None:
            return self.settings.logit
        target, item = Target(self.settings.tensor, logit=True), self.data.items[0]
        for name in self.settings.methods:
            try:
                self.model.attribute(self.request(name, item.inputs, target))
            except AttributionError:
                continue  # it has none, or the method refuses this model: others may not
            return True
        return False

    def target_at(self, index: Any) -> Target:
        """The target of this index, or of one for each sample."""
        return Target(self.settings.tensor, index, logit=self.logit)

    def target(self, k: int) -> Target:
        """The target of a sample, the same for every model once the sample is explained.

        Raises:
            InvalidArgument: it has no label that is a class.
        """
        aim = self.settings.aim
        if aim == "predicted":
            known = self.item(k)["prediction"] if self.state.has(item_name(k)) else None
            return self.target_at(None if known is None else _index(known["place"]))
        if aim != "label":
            return self.target_at(aim)
        found = self.data.label_index(k, self.classes())
        if found is None:
            raise InvalidArgument(
                f"sample {self.data.items[k].id!r} has no label that is the index of a class"
            )
        return self.target_at(found)

    def other_target(self, k: int, rank: int) -> Target | None:
        """Of the classes that are not explained the one of this rank, 1 the most likely, -1 the least; None where
        there is none."""
        known = self.item(k)["prediction"]
        if known is None:
            return None
        own = self.target(k).index
        if isinstance(own, int):
            own = (own + known["classes"] if own < 0 else own,)
        others = [place for place in known["places"] if not isinstance(own, tuple) or tuple(place) != own]
        at = rank - 1 if rank > 0 else rank
        return self.target_at(_index(others[at])) if -len(others) <= at < len(others) else None

    def request(
        self,
        method: str,
        inputs: Mapping[str, Array],
        target: Target,
        layers: Sequence[str] = (),
        model: str | None = None,
    ) -> AttributionRequest:
        """The request of one method, with the baselines if it takes some."""
        value = self.settings.methods[method]
        about = self.facts.get(value.name)
        return AttributionRequest(
            model or self.name,
            inputs,
            value,
            layers,
            self.settings.source,
            target,
            self.settings.baselines if about is None or about.needs_reference else None,
        )

    def ask(self, request: AttributionRequest) -> Attribution:
        """The answer of any model of the engine or server that is asked."""
        if request.model == self.name:
            return self.model.attribute(request)
        found: Attribution = self.asked.attribute(request)
        return found

    def explained(
        self, method: str, numbers: Sequence[int], targets: Sequence[Target], model: str | None = None
    ) -> list[Maps | None]:
        """The maps of some samples, each `[1, *unit]`; None for those that cannot be explained. Samples share requests
        where they can."""
        found: list[Maps | None] = []
        for first in range(0, len(numbers), TOGETHER):
            part, aims = numbers[first : first + TOGETHER], targets[first : first + TOGETHER]
            found += self._together(method, part, aims, model) or [
                self._alone(method, k, aim, model) for k, aim in zip(part, aims, strict=True)
            ]
        return found

    def _alone(self, method: str, k: int, target: Target, model: str | None) -> Maps | None:
        try:
            answer = self.ask(self.request(method, self.data.items[k].inputs, target, (), model))
        except AttributionError:
            return None
        return {name: np.asarray(one.values, np.float64) for name, one in answer.layers.items()}

    def _together(
        self, method: str, numbers: Sequence[int], targets: Sequence[Target], model: str | None
    ) -> list[Maps | None]:
        """The maps of samples in one request; empty where they do not go together."""
        inputs = self.joined(numbers)
        indices = [target.index for target in targets if isinstance(target.index, int)]
        if inputs is None or len(numbers) < 2 or len(indices) < len(numbers):
            return []
        try:
            answer = self.ask(self.request(method, inputs, self.target_at(indices), (), model))
        except AttributionError:
            return []
        whole = {name: np.asarray(one.values, np.float64) for name, one in answer.layers.items()}
        if any(len(values) != len(numbers) for values in whole.values()):
            return []
        return [{name: values[k : k + 1] for name, values in whole.items()} for k in range(len(numbers))]

    def joined(self, numbers: Sequence[int]) -> dict[str, Array] | None:
        """The inputs of several samples as one batch; None where samples cannot share a run."""
        axes = {one.name: one.batch_axis for one in self.info.inputs}
        items = [self.data.items[k].inputs for k in numbers]
        names = items[0].keys()
        if self.info.batch == "single" or any(axes.get(name) is None for name in names):
            return None
        if len({tuple(sorted((name, one[name].shape) for name in names)) for one in items}) != 1:
            return None
        return {name: np.concatenate([one[name] for one in items], axis=axes[name] or 0) for name in names}

    # --- the samples

    def _items(self) -> Iterator[Step]:
        for k, item in enumerate(self.data.items):
            yield Step(item_name(k), f"sample {item.id}", partial(self._explain, k))

    def _explain(self, k: int) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        item, started = self.data.items[k], time.monotonic()
        image = shown_of(self.info, item.inputs).image(0)
        told: dict[str, Any] = {
            "id": item.id,
            "label": self.data.label_index(k, self.classes()),
            "methods": {},
        }
        arrays: dict[str, Array] = {}
        target = self.target(k)
        for name in self.settings.methods:
            hidden = self.settings.layers if name in self.flow_methods else ()
            own = (self.settings.source or self.info.sources) if hidden else ()
            try:
                answer, refused = self._with_hidden(name, item, target, own, hidden)
            except AttributionError as error:
                told["methods"][name] = {"error": error.message}
                continue
            told["methods"][name] = numbers_of(answer)
            told["methods"][name]["warnings"] += refused
            for layer, found in answer.layers.items():
                if layer not in hidden or layer in own:
                    arrays[f"map/{name}/{layer}"] = found.values[0].astype(np.float32)
                elif found.values[0].size <= LARGEST:
                    kept = channels_of(found.values[0], None if image is None else image.shape)
                    for word, array in zip(("sums", "strongest", "maps"), kept, strict=True):
                        arrays[f"hidden/{name}/{layer}/{word}"] = array
        told["prediction"] = self._prediction(item.inputs, told["methods"])
        if told["prediction"] is not None:
            told["label"] = self.data.label_index(k, self.classes(), told["prediction"]["classes"])
        told["seconds"] = round(time.monotonic() - started, 6)
        return told, arrays

    def _with_hidden(
        self, method: str, item: Item, target: Target, own: Sequence[str], hidden: Sequence[str]
    ) -> tuple[Attribution, list[str]]:
        """The answer with the hidden layers, or where they are refused without them, and a warning of that."""
        try:
            return self.ask(self.request(method, item.inputs, target, (*own, *hidden))), []
        except AttributionError as error:
            if not hidden:
                raise
            answer = self.ask(self.request(method, item.inputs, target))
            return answer, [f"without the hidden layers: {error.message}"]

    def _prediction(self, inputs: Mapping[str, Array], methods: Mapping[str, Any]) -> dict[str, Any] | None:
        """The largest of the target's scores, and the places of the others by their rank."""
        tensors = [one["target"]["tensor"] for one in methods.values() if "target" in one]
        if not tensors:
            return None
        whole = np.asarray(self.model.predict(inputs, tensors[:1])[tensors[0]], np.float64)
        scores = whole.ravel()
        if len(scores) < 2 or not np.isfinite(scores).all() or sum(size > 1 for size in whole.shape) > 1:
            return None
        order = np.argsort(-scores, kind="stable")
        unit = whole.shape[1:] if whole.ndim > 1 and whole.shape[0] == 1 else whole.shape
        places = [[int(i) for i in np.unravel_index(int(at), unit)] for at in order]
        classes = self.classes()
        few = [*places[:RANKS], *places[-LAST:]] if len(places) > RANKS + LAST else places
        return {
            "index": int(order[0]),
            "place": places[0],
            "label": classes[order[0]] if int(order[0]) < len(classes) else None,
            "score": plain(scores[order[0]]),
            "places": few,
            "classes": len(scores),
        }


RANKS, LAST = 3, 2
"""Places of classes that are kept of each sample: the most and the least likely."""


def _index(place: Sequence[int]) -> int | tuple[int, ...]:
    return place[0] if len(place) == 1 else tuple(place)


def _is_broken(item: Item, name: str) -> bool:
    array = item.inputs.get(name)
    return array is not None and array.dtype.kind in "fc" and not bool(np.isfinite(array).all())


def item_name(k: int) -> str:
    """The name of the step of a sample."""
    return f"item-{k:06d}"

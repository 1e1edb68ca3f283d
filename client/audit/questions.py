"""How the model of an audit is asked about its samples: which can be explained, their targets, requests and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import Maps, index_of
from onnx_attribution.client.audit.data import Dataset, Item
from onnx_attribution.client.audit.steps import Model, Settings
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.methods import Gradient, Method
from onnx_attribution.values import Array, Attribution, AttributionRequest, LayerInfo, Target

TOGETHER = 16
"""Samples of one request."""


class Questions:
    """`data` are the samples that can be explained, `left_out` the others by name, each with the reason.

    Raises:
        InvalidArgument: no sample can be explained.
    """

    def __init__(self, model: Model, data: Dataset, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.asked, self.name = model.asked
        self.info = model.info()
        self.facts = {one.name: one for one in model.methods()}
        self.data, self.left_out = self._usable(data)

    @cached_property
    def layer_infos(self) -> Mapping[str, LayerInfo]:
        """What is known of each layer."""
        return {one.name: one for one in self.model.layers("")}

    @property
    def checked(self) -> Mapping[str, Method]:
        """The methods as the checks ask for them."""
        return self.settings.methods

    def prediction(self, k: int) -> dict[str, Any] | None:
        """What is known of the scores of a sample: the largest is explained once it is."""
        del k
        return None

    def _usable(self, data: Dataset) -> tuple[Dataset, dict[str, str]]:
        """The samples without those that would spoil every mean, and why those are left out."""
        by_label = isinstance(self.settings.aim, str) and self.settings.aim == "label"
        count = self._class_count() if by_label else None
        kept, left_out = [], {}
        for k, item in enumerate(data.items):
            broken = [name for name in self.settings.source or self.info.sources if _is_broken(item, name)]
            if broken:
                left_out[item.id] = f"{broken[0]} holds NaN or infinite numbers"
            elif by_label and data.label_index(k, self.classes(), count) is None:
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

    @property
    def flow_methods(self) -> list[str]:
        """The methods whose attributions of hidden layers sum to the change."""
        return [
            name
            for name, method in self.settings.methods.items()
            if (about := self.facts.get(method.name)) and about.sums_to and not about.layer_is_source
        ]

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
        quick = AttributionRequest(self.name, item.inputs, Gradient(), (), self.settings.source, target)
        for request in (quick, *(self.request(name, item.inputs, target) for name in self.settings.methods)):
            try:
                self.model.attribute(request)
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
        if not isinstance(aim, str):
            return self.target_at(aim)
        if aim == "predicted":
            known = self.prediction(k)
            return self.target_at(None if known is None else index_of(known["place"]))
        found = self.data.label_index(k, self.classes())
        if found is None:
            raise InvalidArgument(
                f"sample {self.data.items[k].id!r} has no label that is the index of a class"
            )
        return self.target_at(found)

    def other_target(self, k: int, rank: int) -> Target | None:
        """Of the classes that are not explained the one of this rank, 1 the most likely, -1 the least; None where
        there is none."""
        known = self.prediction(k)
        if known is None:
            return None
        own = self.target(k).index
        if isinstance(own, int):
            own = (own + known["classes"] if own < 0 else own,)
        others = [place for place in known["places"] if not isinstance(own, tuple) or tuple(place) != own]
        at = rank - 1 if rank > 0 else rank
        return self.target_at(index_of(others[at])) if -len(others) <= at < len(others) else None

    def request(
        self,
        method: str,
        inputs: Mapping[str, Array],
        target: Target,
        layers: Sequence[str] = (),
        model: str | None = None,
        *,
        as_checked: bool = False,
    ) -> AttributionRequest:
        """The request of one method, or of what the checks ask in its place, with the baselines if it takes some."""
        value = (self.checked if as_checked else self.settings.methods)[method]
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

    def ask(self, request: AttributionRequest, *, advise: bool = False) -> Attribution:
        """The answer of any model of the engine or server that is asked; an engine looks with `advise` for what would
        work where the answer misses the change, as a server always does."""
        if hasattr(self.asked, "info"):
            quick: Attribution = self.asked.attribute(request, advise=advise)
            return quick
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
            answer = self.ask(
                self.request(method, self.data.items[k].inputs, target, (), model, as_checked=True)
            )
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
            answer = self.ask(
                self.request(method, inputs, self.target_at(indices), (), model, as_checked=True)
            )
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


def _is_broken(item: Item, name: str) -> bool:
    array = item.inputs.get(name)
    return array is not None and array.dtype.kind in "fc" and not bool(np.isfinite(array).all())

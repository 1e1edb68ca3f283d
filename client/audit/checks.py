"""An audit from Python: the checks of several methods over samples that are at hand, with their verdicts.

with Engine() as engine:
    engine.add("digits", "digits.onnx")
    found = check(engine, "digits", ["gradient", "integrated_gradients"], {"image": images})
    print(to_json(found.verdicts))

It is the audit of the command line (`client.audit.run.Audit`), whose state is kept only while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_attribution.client.audit.arrays import sample_axes, taken
from onnx_attribution.client.audit.data import Dataset, Item
from onnx_attribution.client.audit.findings import judged
from onnx_attribution.client.audit.run import Aim, Audit, Settings
from onnx_attribution.client.audit.state import State
from onnx_attribution.client.audit.trials import trials_named
from onnx_attribution.client.audit.verdict import Verdicts
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Method, MethodInfo, make
from onnx_attribution.values import Array, Attribution, AttributionRequest, Baseline, LayerInfo, ModelInfo


@dataclass(frozen=True)
class Asked:
    """A model of an engine or a client, as an audit asks it."""

    of: Any
    name: str

    @property
    def asked(self) -> tuple[Any, str]:
        """The engine or client, and the model's name there."""
        return self.of, self.name

    @property
    def _is_embedded(self) -> bool:
        return hasattr(self.of, "info")

    def info(self) -> ModelInfo:
        """What is known of the model."""
        found: ModelInfo = self.of.info(self.name) if self._is_embedded else self.of.model(self.name)
        return found

    def layers(self, pattern: str) -> list[LayerInfo]:
        """The layers that fit."""
        found: list[LayerInfo] = self.of.layers(self.name, pattern)
        return found

    def methods(self) -> list[MethodInfo]:
        """What is known of the methods."""
        found: list[MethodInfo] = self.of.methods()
        return found

    def attribute(self, request: AttributionRequest) -> Attribution:
        """The answer to a request."""
        if self._is_embedded:
            found: Attribution = self.of.attribute(request)
        else:
            names = ("method", "layers", "source", "target", "baselines")
            options = {name: getattr(request, name) for name in names}
            found = self.of.attribute(self.name, request.inputs, **options)
        return found

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """The outputs, or any tensors by name."""
        found: dict[str, Array] = self.of.predict(self.name, dict(inputs), list(outputs))
        return found


@dataclass(frozen=True)
class Checked:
    """What was found: the verdicts, by check what stands in a report, and why others were left out.

    `errors` are those of methods that have no answer, `left_out` samples by their number that cannot be explained.
    """

    verdicts: Verdicts
    found: Mapping[str, Any]
    skipped: Mapping[str, str]
    errors: Mapping[str, str]
    left_out: Mapping[str, str]


def check(
    asked: Any,
    model: str,
    methods: Sequence[Method | str] | Mapping[str, Method | str],
    inputs: Mapping[str, ArrayLike],
    *,
    checks: str = "all",
    labels: Sequence[int | str] | None = None,
    masks: NDArray[np.bool_] | None = None,
    target: Aim = "predicted",
    tensor: str | None = None,
    logit: bool | None = None,
    layers: Sequence[str] = (),
    source: Sequence[str] = (),
    baselines: Mapping[str, Baseline] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, planned, words: None,
) -> Checked:
    """Audits a model of an engine or a client over the samples of `inputs`.

    `checks` are names between commas, "all" or "none"; `layers` are hidden ones, whose neurons are ablated; `target`,
    `tensor` and `logit` say what is explained, as for the command. `masks` say for each sample where the reason lies,
    in the shape of the sample or of its positions.

    Raises:
        InvalidArgument: no method has an answer, or no sample can be explained.
    """
    found = Asked(asked, model)
    info = found.info()
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    axes, count = sample_axes(arrays, info.inputs, info.batch)
    for word, each in (("labels", labels), ("masks", masks)):
        if each is not None and len(each) != count:
            raise InvalidArgument(f"there are {len(each)} {word} of {count} samples", parameter=word)
    items = [
        Item(
            str(k),
            taken(arrays, axes, range(k, k + 1)),
            None if labels is None else labels[k],
            None if masks is None else np.asarray(masks[k]),
        )
        for k in range(count)
    ]
    given = dict(baselines or {})
    words = (f"{one:g}" if isinstance(one, int | float) else "given" for one in given.values())
    settings = Settings(
        {name: make(one) for name, one in _named(methods).items()},
        layers=tuple(layers),
        source=tuple(source),
        aim=target,
        tensor=tensor,
        baselines=given,
        baseline=", ".join(words) or "0",
        seed=seed,
        logit=logit,
    )
    with TemporaryDirectory() as folder:
        audit = Audit(
            found,
            Dataset("samples", items),
            settings,
            State(Path(folder), {}),
            trials_named(checks, masked=masks is not None),
        )
        audit.run(progress)
        told = [audit.item(k)["methods"] for k in range(len(audit.data))]
        errors = {
            name: next(one[name]["error"] for one in told if "error" in one[name])
            for name in settings.methods
            if all("error" in one[name] for one in told)
        }
        if len(errors) == len(settings.methods):
            raise InvalidArgument("; ".join(f"{name}: {error}" for name, error in errors.items()))
        done = {one.name: one.found(audit) for one in audit.checks if one.name not in audit.skipped}
        return Checked(judged(audit), done, dict(audit.skipped), errors, dict(audit.left_out))


def _named(methods: Sequence[Method | str] | Mapping[str, Method | str]) -> Mapping[str, Method | str]:
    if isinstance(methods, Mapping):
        return methods
    found: dict[str, Method | str] = {}
    for one in methods:
        name = one if isinstance(one, str) else one.name
        if name in found:
            raise InvalidArgument(
                f"two methods are called {name!r}: give them by names of their own", parameter="methods"
            )
        found[name] = one
    if not found:
        raise InvalidArgument("there is no method to check", parameter="methods")
    return found

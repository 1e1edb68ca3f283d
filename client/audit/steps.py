"""What an audit is made of: the model that is asked, what is asked of it, steps, and checks that give steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from onnx_attribution.client.audit.verdict import Finding
from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.methods import Method, MethodInfo
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    Baseline,
    LayerInfo,
    ModelInfo,
    Selector,
)

if TYPE_CHECKING:
    from onnx_attribution.client.audit.run import Audit

Aim = Literal["predicted", "label"] | Selector
"""The class that is explained of each sample, or the index or region of the target."""


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
    one, since a saturated activation has no gradient for any method. `names` are what units are called."""

    methods: Mapping[str, Method]
    layers: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    aim: Aim = "predicted"
    tensor: str | None = None
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    baseline: str = "0"
    seed: int = 0
    target: str = "predicted"
    """`aim` in words."""
    logit: bool | None = None
    names: UnitNames = field(default_factory=UnitNames)


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

    def seconds(self, audit: Audit) -> float:
        """About how long all of them take, by what the answers of the samples took."""
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

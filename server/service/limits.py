"""What one request may ask for: samples, steps, bytes of an answer, and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods.path import DOUBLED_STEPS
from onnx_attribution.methods.shared import FIXED_STEPS
from onnx_attribution.parameters import parameters_of
from onnx_attribution.proto import requests
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Array, AttributionRequest, ModelInfo

__all__ = ["Limits"]

MIB = 1 << 20
# Without a deadline, grpcio reports the time until the end of its clock.
NO_DEADLINE = 10 * 365 * 86400.0


class Models(Protocol):
    """What is needed of an engine."""

    def info(self, model: str) -> ModelInfo: ...


class Limits:
    """The limits that are set. Each of them raises InvalidArgument, with the limit and what was asked for."""

    def __init__(self, models: Models, settings: Settings) -> None:
        self._models, self._settings = models, settings

    def seconds(self, context: Any, default: float) -> float:
        """The time a call has: the client's, or the default where it states none."""
        remaining: float | None = context.time_remaining()
        if remaining is None or remaining > NO_DEADLINE:
            return default
        limit = self._settings.max_seconds
        if remaining > limit:
            message = f"the deadline is {remaining:.0f} s away; at most {limit:g} s are allowed"
            raise InvalidArgument(message, reason=Reason.DEADLINE_TOO_LONG, limit=f"{limit:g}")
        return remaining

    def steps(self, request: AttributionRequest) -> AttributionRequest:
        """The request with no more steps than the limit where it leaves them open."""
        found, limit, method = requests.Violations(), self._settings.max_steps, request.method
        for one in parameters_of(type(method)):
            if one.accuracy and one.kind == "integer":
                place, value = f"{method.name}.{one.name}", getattr(method, one.name)
                found.require(value is None or value <= limit, place, f"must be at most {limit}")
                open_until = {"steps": FIXED_STEPS, "max_steps": DOUBLED_STEPS}.get(one.name, 0)
                if value is None and limit < open_until:
                    request = request.changed(**{one.name: limit})
        found.raise_if_any()
        return request

    def samples(self, model: str, inputs: Mapping[str, Array], targets: int = 1) -> None:
        """Of every input, times the targets."""
        limit = self._settings.max_samples
        if all(size * targets <= limit for array in inputs.values() for size in array.shape):
            return  # whichever axis holds them
        for info in self._models.info(model).inputs:
            array = inputs.get(info.name)
            if array is None or info.batch_axis is None or array.ndim <= info.batch_axis:
                continue  # the engine says what is wrong with it
            samples = array.shape[info.batch_axis]
            if samples * targets > limit:
                each = f", each for {targets} targets" * (targets > 1)
                raise InvalidArgument(
                    f"input {info.name!r} holds {samples} samples{each}; at most {limit} may be asked for at once",
                    reason=Reason.REQUEST_TOO_LARGE, limit=limit, actual=samples * targets,
                )  # fmt: skip

    def bytes(self, arrays: Iterable[Array], hint: str) -> None:
        """Of one message of arrays."""
        limit, actual = int(self._settings.max_response_mib * MIB), sum(array.nbytes for array in arrays)
        if actual > limit:
            message = f"the result is {actual} bytes, and one message holds at most {limit}; {hint}"
            raise InvalidArgument(message, reason=Reason.RESULT_TOO_LARGE, limit=limit, actual=actual)

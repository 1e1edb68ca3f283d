"""The checks of an audit by their names, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Callable

from onnx_attribution.client.audit.run import Check
from onnx_attribution.client.audit.trials.classes import OtherClasses
from onnx_attribution.client.audit.trials.perturbations import Perturbations
from onnx_attribution.client.audit.trials.randomised import RandomisedWeights
from onnx_attribution.client.audit.trials.removal import Removal
from onnx_attribution.errors import InvalidArgument

__all__ = ["CHECKS", "trials_named"]

CHECKS: dict[str, Callable[[], Check]] = {
    "classes": OtherClasses,
    "randomisation": RandomisedWeights,
    "perturbations": Perturbations,
    "ablation": Removal,
}


def trials_named(text: str) -> list[Check]:
    """The checks of names between commas; all of them, or none. Raises: InvalidArgument: there is no such check."""
    if text == "none":
        return []
    names = list(CHECKS) if text == "all" else [one.strip().replace("-", "_") for one in text.split(",")]
    for name in names:
        if name not in CHECKS:
            raise InvalidArgument(f"no check {name!r}; there are: {', '.join(['all', 'none', *CHECKS])}")
    return [CHECKS[name]() for name in names]

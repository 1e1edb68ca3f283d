"""The checks of an audit by their names, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Callable

from onnx_attribution.client.audit.run import Check
from onnx_attribution.client.audit.trials.classes import OtherClasses
from onnx_attribution.client.audit.trials.convergence import Convergence
from onnx_attribution.client.audit.trials.localisation import Localisation, check_masks
from onnx_attribution.client.audit.trials.perturbations import Perturbations
from onnx_attribution.client.audit.trials.randomised import RandomisedWeights
from onnx_attribution.client.audit.trials.removal import Removal
from onnx_attribution.errors import InvalidArgument

__all__ = ["CHECKS", "check_masks", "trials_named"]

CHECKS: dict[str, Callable[[], Check]] = {
    "classes": OtherClasses,
    "randomisation": RandomisedWeights,
    "convergence": Convergence,
    "perturbations": Perturbations,
    "ablation": Removal,
    "localisation": Localisation,
}


def trials_named(text: str, *, masked: bool = True) -> list[Check]:
    """The checks of names between commas; all of them, or none. Of all, what needs masks only where there are some.

    Raises:
        InvalidArgument: there is no such check.
    """
    if text == "none":
        return []
    names = list(CHECKS) if text == "all" else [one.strip().replace("-", "_") for one in text.split(",")]
    for name in names:
        if name not in CHECKS:
            raise InvalidArgument(f"no check {name!r}; there are: {', '.join(['all', 'none', *CHECKS])}")
    return [CHECKS[name]() for name in names if masked or text != "all" or CHECKS[name] is not Localisation]

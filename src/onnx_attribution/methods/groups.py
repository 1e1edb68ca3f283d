"""Methods that replace groups of features by their baseline, and need no derivatives. Needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.methods.shared import (
    GROUPS,
    MAX_DRAWS,
    MAX_SEED,
    SEED,
    STRIDES,
    WINDOWS,
)
from onnx_attribution.parameters import EMPTY, bounded
from onnx_attribution.register import (
    Method,
    register,
)


@register(
    "occlusion",
    captum="FeatureAblation (groups are its feature_mask); Occlusion with windows and strides",
    paper="arXiv 1311.2901",
)
@dataclass(frozen=True, eq=False)
class Occlusion(Method):
    """By how much the target falls where a group of features is at its baseline; of any model that runs.

    A source with neither groups nor a window has every element as its own group. Sources may hold integers, text and
    truth values too (baselines: 0, "" and False), and are by default those that groups and windows name, else the
    inputs of which each sample has its own.
    """

    groups: Mapping[str, NDArray[np.generic]] = bounded(EMPTY, help=GROUPS)
    windows: Mapping[str, Sequence[int]] = bounded(EMPTY, option="window", help=WINDOWS)
    strides: Mapping[str, Sequence[int]] = bounded(EMPTY, option="stride", help=STRIDES)


@register("kernel_shap", captum="KernelShap", paper="arXiv 1705.07874")
@dataclass(frozen=True, eq=False)
class KernelShap(Method):
    """The Shapley values of groups of features: the mean, over all orders in which the groups are brought from their
    baseline to the input, of what each adds to the target; of any model that runs. Sums to F(x) - F(x').

    They are fitted to coalitions of groups by a weighted regression. Where all coalitions of the groups that differ
    from their baseline fit into the number, the values are exact; else some are drawn, and the error estimate is the L1
    norm of the standard errors. Groups and sources are those of occlusion: every element has the value of its group, so
    that groups, not elements, sum to the change. Over several references, which an interventional TreeSHAP calls its
    background, it is the mean.
    """

    coalitions: int | None = bounded(
        None,
        at_least=2,
        at_most=MAX_DRAWS,
        accuracy=True,
        help="How many coalitions are evaluated for each sample, two for each group and four more at least; by default "
        "2048 more than two for each. Captum's n_samples.",
    )
    seed: int = bounded(0, at_least=0, at_most=MAX_SEED, help=SEED)
    groups: Mapping[str, NDArray[np.generic]] = bounded(EMPTY, help=GROUPS)
    windows: Mapping[str, Sequence[int]] = bounded(EMPTY, option="window", help=WINDOWS)
    strides: Mapping[str, Sequence[int]] = bounded(EMPTY, option="stride", help=STRIDES)

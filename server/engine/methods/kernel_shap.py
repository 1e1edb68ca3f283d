"""Kernel SHAP: the Shapley values of groups of features, by a weighted regression on coalitions of them.

The players are the groups that differ from their baseline; a coalition S has its groups at x and all others at theirs.
The Shapley values are the additive function of S that fits F best where S has the weight
`1 / (C(M, |S|) |S| (M - |S|))`, and is F itself at both ends (Lundberg and Lee, arXiv 1705.07874, theorem 2). Where all
coalitions fit they are evaluated, and the values are exact. Else sizes are taken from the outside in, as shap's
KernelExplainer does, the first always and others as long as all coalitions of a size and of its complement get their
share; those of the sizes between are drawn, each with its complement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import KernelShap
from onnx_attribution.server.engine.methods.coalitions import Numbers, features_of, touched, values_at
from onnx_attribution.server.engine.methods.stages import Evaluations, Stage
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Coalitions, Floats, Recipe, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.evaluate import Sums

MOST = 1024
"""Players of one sample: the regression has as many unknowns."""
BASE = 2048
"""Coalitions beside two for each player, where their number is left open; as shap's."""
SMALLEST = 0.05
"""The least share of itself that a drawn pair may leave unexplained."""
Masks = NDArray[np.bool_]


@recipe(KernelShap)
def kernel_shap(method: KernelShap) -> Recipe:
    at = Coalitions(method.groups, method.windows, method.strides, method.coalitions, method.seed)
    alone = not method.groups and not method.windows
    return Recipe(at, sums_to_change=alone, layer_is_source=True, multiplied=True)


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: the coalitions are evaluated once for all targets."""
    plans = _plans(asked[0])

    def planned() -> int:
        return sum(2 + (0 if plan is None else len(plan.masks)) for plan in plans)

    yield Stage(lambda: 0, planned, lambda: _found(model, asked, plans, memory))


@dataclass(frozen=True)
class Plan:
    """Coalitions of players: `masks` `[coalitions, players]` says who is in one, all of them different. `drawn` counts
    at the end of `rows`, which numbers the masks that are meant, coalition and complement in turn; `weights` are those
    of the rows."""

    masks: Masks
    rows: NDArray[np.intp]
    weights: Floats
    drawn: int


def plan_of(players: int, count: int | None, seed: int) -> Plan | None:
    """The coalitions of so many players; None where there is nothing to share out.

    Raises:
        InvalidArgument: more than MOST players, or too few coalitions for them.
    """
    if players < 2:
        return None
    if players > MOST:
        raise InvalidArgument(
            f"{players} groups differ from their baseline, and Shapley values of at most {MOST} are computed: take "
            "larger ones by groups or windows, or fewer sources",
            reason=Reason.REQUEST_TOO_LARGE, limit=MOST, actual=players,
        )  # fmt: skip
    left = 2 * players + BASE if count is None else count
    everything = 2**players - 2 <= left
    if left < (least := min(2 * players + 4, 2**players - 2)):
        raise InvalidArgument(
            f"coalitions is {left}, and {players} groups differ from their baseline: their Shapley values need "
            f"{least}, two for each and some more; give more, or larger groups",
            option="coalitions",
        )
    sizes = np.arange(1, players // 2 + 1)
    shares = np.where(2 * sizes == players, 1.0, 2.0) / (sizes * (players - sizes))
    shares /= shares.sum()
    whole, weights = list[Masks](), list[Floats]()
    at = 0
    for size in sizes.tolist():
        number = comb(players, size) * (1 if 2 * size == players else 2)
        rest = shares[at:].sum()
        if at and not everything and number > left * shares[at] / rest:
            break
        whole.append(_all_of(players, size))
        weights.append(np.full(number, shares[at] / number))
        left, at = left - number, at + 1
    drawn = 0
    if at < len(sizes):
        some = _drawn(players, sizes[at:], shares[at:] / shares[at:].sum(), left // 2, seed)
        whole.append(some)
        drawn = len(some)
        weights.append(np.full(drawn, shares[at:].sum() / drawn))
    packed, rows = np.unique(np.packbits(np.concatenate(whole), axis=1), axis=0, return_inverse=True)
    masks = np.unpackbits(packed, axis=1, count=players).astype(np.bool_)
    return Plan(masks, rows.reshape(-1), np.concatenate(weights), drawn)


def _all_of(players: int, size: int) -> Masks:
    """All coalitions of a size, and their complements."""
    chosen = np.array(list(combinations(range(players), size)), np.intp)
    found = np.zeros((len(chosen), players), np.bool_)
    np.put_along_axis(found, chosen, True, axis=1)
    return found if 2 * size == players else np.concatenate([found, ~found])


def _drawn(players: int, sizes: NDArray[np.intp], shares: Floats, pairs: int, seed: int) -> Masks:
    """Coalitions of these sizes, each followed by its complement."""
    rng = np.random.default_rng([seed, players])
    chosen = rng.choice(sizes, size=pairs, p=shares)
    ranks = rng.random((pairs, players)).argsort(axis=1).argsort(axis=1)
    one = ranks < chosen[:, None]
    return np.stack([one, ~one], axis=1).reshape(2 * pairs, players)


class Fit:
    """The regression on the coalitions of a plan, made ready once for all samples and targets.

    The last player's value is the change less all others, so that their sum is exact.
    """

    def __init__(self, plan: Plan) -> None:
        masks = plan.masks[plan.rows].astype(np.float64)
        self._plan, self._last = plan, masks[:, -1]
        self._design = masks[:, :-1] - masks[:, -1:]
        self._weighed = self._design * plan.weights[:, None]
        self._inverse = np.linalg.inv(self._weighed.T @ self._design)
        self._pairs = plan.drawn // 2
        drawn = slice(len(masks) - plan.drawn, None)
        pull = ((self._weighed[drawn] @ self._inverse) * self._design[drawn]).sum(axis=1)
        self._free = np.maximum(1 - pull.reshape(self._pairs, 2).sum(axis=1), SMALLEST)
        """What each pair leaves of itself unexplained."""

    def __call__(self, gains: Floats, change: float) -> tuple[Floats, Floats]:
        """The Shapley values of the players and their standard errors, of `gains`, the target at each mask less at the
        baseline, and at x less at the baseline.

        The errors are those that the drawn pairs leave, from how far each is from a fit without it; NaN where there are
        few.
        """
        plan = self._plan
        wanted = gains[plan.rows] - self._last * change
        if not np.isfinite(wanted).all():
            none = np.full(plan.masks.shape[1], np.nan)
            return none, none
        found = self._inverse @ (self._weighed.T @ wanted)
        values = np.append(found, change - found.sum())
        if not plan.drawn:
            return values, np.zeros_like(values)
        if 2 * self._pairs < len(values):  # how far they scatter is not known
            return values, np.full_like(values, np.nan)
        missed = self._weighed * (wanted - self._design @ found)[:, None]
        scores = missed[-plan.drawn :].reshape(self._pairs, 2, -1).sum(axis=1) / self._free[:, None]
        moved = self._inverse @ (scores - scores.mean(axis=0)).T  # [players - 1, pairs]
        variances = np.append((moved**2).sum(axis=1), (moved.sum(axis=0) ** 2).sum())
        return values, np.sqrt(variances * (self._pairs / (self._pairs - 1)))


def _plans(resolved: Resolved) -> list[Plan | None]:
    """A plan for each sample; samples of as many players have the same."""
    at = resolved.recipe.inner.at
    assert isinstance(at, Coalitions)
    counts = [len(groups) for groups in touched(resolved)]
    made = {count: plan_of(count, at.coalitions, at.seed) for count in dict.fromkeys(counts)}
    return [made[count] for count in counts]


def _found(
    model: LoadedModel, asked: Sequence[Resolved], plans: Sequence[Plan | None], memory: int
) -> Evaluations:
    """The Shapley values of all groups for each target, spread over their elements."""
    features = features_of(asked[0])
    players = [np.array(groups, np.intp) for groups in touched(asked[0])]

    def absent(k: int, number: int) -> Numbers:
        plan = plans[k]
        assert plan is not None
        return np.asarray(players[k][~plan.masks[number]])

    counts = [0 if plan is None else len(plan.masks) for plan in plans]
    values = yield from values_at(model, asked, counts, absent, memory)
    fits = {id(plan): Fit(plan) for plan in plans if plan is not None}
    shapley, errors = np.zeros((2, len(asked), len(players), features.count))
    for k, (at_x, at_baseline, at) in enumerate(values):
        plan, own = plans[k], players[k]
        for number, change in enumerate(at_x - at_baseline):
            if plan is None:
                shapley[number, k, own] = change
                continue
            found = fits[id(plan)](at[number] - at_baseline[number], change)
            shapley[number, k, own], errors[number, k, own] = found
    high, low = (np.stack(ends, axis=1) for ends in list(zip(*values, strict=True))[:2])
    return [
        Sums(
            {name: parts.spread(shapley[number]) for name, parts in features.of.items()},
            {},
            high[number],
            low[number],
            errors={name: per_sample(parts.spread(errors[number])) for name, parts in features.of.items()},
        )
        for number in range(len(asked))
    ]

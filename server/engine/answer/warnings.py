"""What an answer says of itself in words: numbers that are not finite, and changes that are missed or bypassed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.emit import element_type, is_float
from onnx_attribution.server.engine.answer.nan_origin import origin_of, steep_of
from onnx_attribution.server.engine.answer.remedies import remedy
from onnx_attribution.server.engine.methods.noise import noise_scale
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Draws, Path
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.evaluate import Floats, Sums
from onnx_attribution.values import LayerAttribution

RESIDUAL = 1e-3
"""Of the absolute contributions of a layer: what rounding does not explain in float32."""
HALF_RESIDUAL = 3e-2
"""The same with half types, in which every tensor between is rounded to 3 or 2 digits."""
HALF_EPS = 2.0**-10
"""Of float16, also where the target is of a wider type."""
MISSED = 0.05
"""Of the target's change: from here on a path sum says that it misses it."""
SHOWN = 5  # samples that a warning lists

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Answered:
    """An answer before its words: the request as it was evaluated, with one entry for each reference, and its sums;
    the same with one entry a sample; and what was made of them."""

    model: LoadedModel
    asked: Resolved
    every: Sums
    resolved: Resolved
    sums: Sums
    layers: Mapping[str, LayerAttribution]
    joint: Floats | None
    steps: int
    remedies: dict[int, str]
    may_go_on: Callable[[], bool]

    def remedy(self, place: int, complete: Sequence[str], memory: int) -> str:
        """What would work for a sample, by its place in the request as it was asked; looked for once a request."""
        if place not in self.remedies:
            self.remedies[place] = (
                remedy(self.model, self.asked, place, complete, self.steps, memory, self.may_go_on)
                if isinstance(self.asked.recipe.at, Path) and self.may_go_on()
                else ""
            )
        return self.remedies[place]

    def sizes(self, names: Sequence[str]) -> Floats:
        """The L1 norm of the attributions of these layers, per sample."""
        return np.asarray(sum(per_sample(np.abs(self.sums.fine[name])) for name in names))

    def ends(self) -> tuple[Floats, Floats]:
        """Per sample the change of the target, and the larger of its absolute values at x and x'."""
        high, low = self.resolved.value, self.resolved.baseline_value
        with np.errstate(invalid="ignore", over="ignore"):
            return high - low, np.maximum(np.abs(high), np.abs(low))

    def rounding(self) -> tuple[float, float]:
        """The rounding error of the target, relative; the share of contributions that rounding may take away."""
        target = self.model.tensors[self.resolved.choice.target]
        kind = element_type(target)
        eps = float(ml_dtypes.finfo(kind).eps) if is_float(target) else 0.0  # type: ignore[no-untyped-call]
        return eps, HALF_RESIDUAL if self.model.holds_halves else RESIDUAL

    def complete(self) -> Iterator[tuple[list[str], Floats]]:
        """The layers whose attributions sum to the change, alone or together, and their residuals."""
        for name, layer in self.layers.items():
            if layer.cut:
                yield [name], layer.residual
        if self.joint is not None:
            yield list(self.layers), self.joint


def warnings_of(answer: Answered, memory: int) -> Iterator[str]:
    """All of them; `memory` is what a search for the origin of NaN may take, in bytes."""
    yield from _not_finite(answer, memory)
    yield from _ends_not_finite(answer.resolved)
    bypassed = [
        layer
        for layer in answer.layers.values()
        if not layer.cut
        and answer.joint is None
        and np.isfinite(layer.residual).any()
        and not answer.resolved.recipe.relevance
    ]
    if len(bypassed) > SHOWN:
        first = ", ".join(repr(layer.name) for layer in bypassed[:SHOWN])
        yield (
            f"{len(bypassed)} of {len(answer.layers)} layers are no cuts ({first}, ...): the flow says what share of "
            "the change goes through each"
        )
        bypassed = []
    for layer in bypassed:
        yield _bypassed(answer.model, answer.resolved, layer)
    found, said = answer.resolved.recipe, 0
    yield from _without_noise(answer.asked)
    yield from _not_summing(answer)
    yield from answer.every.notes
    for names, residual in answer.complete():
        words: list[str] = []
        if isinstance(found.at, Draws):
            words = list(_scattered(answer, names, residual))
        elif found.error_estimate:
            words = list(_unmet(answer, names, residual, memory))
        elif found.takes_differences:
            words = list(_missing(answer, names, residual))
        yield from words
        said += len(words)
        if said == SHOWN:
            yield "the warnings of further layers are left out"
            break


def _not_finite(answer: Answered, memory: int) -> Iterator[str]:
    bad: dict[str, Mask] = {
        n: np.asarray(~np.isfinite(a.reshape(len(a), -1)).all(axis=1))
        for n, a in answer.every.fine.items()
        if not np.isfinite(answer.layers[n].sum).all()  # else all are
    }
    names = [name for name, samples in bad.items() if samples.any()]
    if not names:
        return
    references = 1 if answer.every.averaged else answer.asked.samples.references
    first = int(np.argmax(np.any([bad[name] for name in names], axis=0)))
    first *= answer.asked.samples.references // references
    derived = answer.asked.recipe.needs_derivatives  # as the search does
    found = origin_of(answer.model, answer.asked, first, memory) if derived else None
    begins = ""
    if found:
        words, at_baseline = found
        begins = f"; {words}" + (", at the baseline" if at_baseline else "")
        if at_baseline and np.isfinite(answer.asked.value[first]):
            complete = next((list(layers) for layers, _ in answer.complete()), [])
            if better := answer.remedy(first, complete, memory):
                begins += f"; try {better}"
    if len(names) > SHOWN:
        listed = ", ".join(map(repr, names[:SHOWN]))
        yield f"the attributions of {len(names)} layers ({listed}, ...) hold NaN or infinite numbers{begins}"
        return
    for name in names:
        yield (
            f"the attributions of {name!r} hold NaN or infinite numbers{_in(bad[name], references)}{begins}"
        )


def _in(chosen: Mask, references: int = 1) -> str:
    """Which samples are meant, with their references where there are several; "" where there is one of each."""
    if len(chosen) == 1:
        return ""
    each = chosen.reshape(-1, references)
    samples = np.flatnonzero(each.any(axis=1))
    words = []
    for k in samples[:SHOWN]:
        which = _listed(np.flatnonzero(each[k]))
        words.append(str(k) if references == 1 or each[k].all() else f"{k} (reference {which})")
    more = f", ... ({len(samples)} in all)" if len(samples) > SHOWN else ""
    return f" in sample{'s'[: len(samples) > 1]} {', '.join(words)}{more}"


def _listed(numbers: Sequence[int] | NDArray[np.intp]) -> str:
    return ", ".join(map(str, numbers[:SHOWN])) + ", ..." * (len(numbers) > SHOWN)


def _ends_not_finite(resolved: Resolved) -> Iterator[str]:
    ends = {"input": resolved.value}
    if resolved.recipe.needs_reference:
        ends["baseline"] = resolved.baseline_value
    for end, values in ends.items():
        bad: Mask = np.asarray(np.logical_not(np.isfinite(values)))
        if bad.any():
            yield f"the target {resolved.choice.target!r} is NaN or infinite at the {end}{_in(bad)}"


def _worst(residual: Floats, allowed: Floats, among: Floats | None = None) -> tuple[Mask, int] | None:
    """The samples whose residuals are more than what is allowed, and of these the one that is first by the residual, or
    by the numbers that it is chosen among; None where all are allowed."""
    with np.errstate(invalid="ignore"):
        missed: Mask = np.isfinite(residual) & (np.abs(residual) > allowed)
    if not missed.any():
        return None
    return missed, int(np.argmax(np.where(missed, np.abs(residual) if among is None else among, -1)))


def _missing(answer: Answered, names: Sequence[str], residual: Floats) -> Iterator[str]:
    """Where contributions that sum exactly do not: an operator on the way has no exact secant, or they are noise."""
    size, (eps, share), (_, ends) = answer.sizes(names), answer.rounding(), answer.ends()
    if found := _worst(residual, share * size + 16 * eps * ends):
        _, worst = found
        yield (
            f"the contributions of {_quoted(names)} miss the change by {-residual[worst]:.3g} in sample {worst}, "
            f"where their absolute values sum to {size[worst]:.3g}: an operator between has no exact secant there"
        )


def _unmet(answer: Answered, names: Sequence[str], residual: Floats, memory: int) -> Iterator[str]:
    """Where a path sum misses more of the change than a step size explains that is fine enough."""
    size, (eps, share), (change, ends) = answer.sizes(names), answer.rounding(), answer.ends()
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = 4 * max(eps, HALF_EPS) if share == HALF_RESIDUAL else 64 * eps
        noise = 16 * eps * ends + rounded * size
        ratio = np.abs(residual) / np.maximum(np.abs(change), np.finfo(np.float64).tiny)
        found = _worst(residual, MISSED * np.abs(change) + noise, ratio)
    if found is None:
        return
    missed, worst = found
    share_missed = f"{ratio[worst]:.0%} of the change" if ratio[worst] < 100 else "the change"
    others = f" (and in {missed.sum() - 1} others)" if missed.sum() > 1 else ""
    place = worst * answer.asked.samples.references
    steep = steep_of(answer.model, answer.asked, place, memory) if answer.may_go_on() else None
    begins = f"; the gradient is steep at the baseline, through {steep}" if steep else ""
    better = answer.remedy(place, names, memory) if steep else ""
    logit = answer.model.logit_of(answer.resolved.choice.target)
    ways = (
        [better]
        if better
        else ["more steps", "a tolerance", "another baseline"]
        + ([f"the logit {logit.tensor!r}"] if logit else [])
    )
    yield (
        f"the attributions of {_quoted(names)} miss {share_missed} in sample {worst}{others}: they sum to "
        f"{change[worst] + residual[worst]:.3g}, the target changes by {change[worst]:.3g}, at {answer.steps} steps"
        f"{begins}; try {' or '.join(filter(None, (', '.join(ways[:-1]), ways[-1])))}"
    )


def _without_noise(asked: Resolved) -> Iterator[str]:
    """The sources whose range is nothing, of which noise was to be a share."""
    at = asked.recipe.at
    if not isinstance(at, Draws) or at.stdev is not None or not at.noise_level:
        return
    for name in asked.choice.sources:
        high, _ = asked.samples.ends(name)
        none: Mask = (noise_scale(at, high).reshape(len(high)) == 0)[:: asked.samples.references]
        if none.any():
            yield f"no noise is added to {name!r}{_in(none)}, whose numbers are all the same; give stdev"


def _not_summing(answer: Answered) -> Iterator[str]:
    """Where terms do not sum to the target: an operator is neither proportional to its input nor adds to it."""
    if answer.sums.missed is None:
        return
    (missed, size), (eps, share) = answer.sums.missed, answer.rounding()
    value = answer.resolved.value
    if found := _worst(missed, share * size + 16 * eps * np.abs(value)):
        _, worst = found
        yield (
            f"the terms sum to {value[worst] + missed[worst]:.3g} in sample {worst}, where the target is "
            f"{value[worst]:.3g}: an operator between is neither proportional to its input nor adds a bias to it"
        )


def _scattered(answer: Answered, names: Sequence[str], residual: Floats) -> Iterator[str]:
    """Where a mean over draws misses more of the change than it should: there are too few."""
    size, (eps, _), (change, ends) = answer.sizes(names), answer.rounding(), answer.ends()
    with np.errstate(invalid="ignore", over="ignore"):
        found = _worst(residual, MISSED * np.abs(change) + 64 * eps * (ends + size))
    if found:
        _, worst = found
        yield (
            f"the attributions of {_quoted(names)} sum to {change[worst] + residual[worst]:.3g} in sample {worst}, "
            f"where the target changes by {change[worst]:.3g}: the draws scatter; try more draws, or less noise"
        )


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


def _bypassed(model: LoadedModel, resolved: Resolved, layer: LayerAttribution) -> str:
    residual = layer.residual[np.isfinite(layer.residual)]
    change = layer.sum[np.isfinite(layer.residual)] - residual
    moved = change != 0
    shares = np.unique(np.round(-100 * residual[moved] / change[moved]).astype(int))
    ends = (
        " to ".join(f"{share} %" for share in dict.fromkeys((shares[0], shares[-1])))
        if len(shares)
        else "all"
    )
    cuts = model.cuts(resolved.choice.sources, resolved.choice.target)
    made = [z.name for node in model.nodes for z in node.outputs]
    behind = made[made.index(layer.name) :] if layer.name in made else made
    nearest = next((name for name in behind if name in cuts), resolved.choice.target)
    return f"layer {layer.name!r} is no cut: {ends} of the change bypasses it; the next cut is {nearest!r}"

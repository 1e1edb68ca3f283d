"""Ablation as the ground truth of importances: what becomes of the target as neurons go, the most important first.

    found = ablation(client, "digits", images, "conv2", methods=["neuron_ig", "deeplift_rescale"], target=7)
    print(found.table())

All works on a `Client` as on an `Engine`. Importances of any origin are ranked group by group, by channels say, and the
groups of the lowest ranks are replaced: in a deletion curve first one, then more, until none is left; an insertion
curve begins with all of them replaced and gives them back. A ranking that knows what the model uses makes the target
fall early (a small area under the deletion curve) or rise early (a large one under the insertion curve); random
rankings say what any would do. It is the experiment of the conductance literature (arXiv 1805.12233), which also counts
how many neurons go until the model decides for something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from onnx_attribution.client.audit.ablated import RANDOM, Ablation
from onnx_attribution.client.audit.arrays import Floats, sample_axes, taken
from onnx_attribution.client.audit.curves import RESAMPLE, Curve, Kind, curve
from onnx_attribution.client.audit.ranks import (
    Whole,
    apart,
    by_axes,
    channels_axis,
    patches,
    random_ranks,
    ranks_of,
)
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.interventions import MEAN, Intervened, Patch, Replacement
from onnx_attribution.methods import LayerActivation, Method, make
from onnx_attribution.register import unknown
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    References,
    Selection,
    Target,
)

__all__ = [
    "METHODS",
    "RANDOM",
    "Ablation",
    "Curve",
    "ablation",
    "by_axes",
    "channels_axis",
    "curve",
    "patches",
    "random_ranks",
    "ranks_of",
]

BASELINE: Literal["baseline"] = "baseline"
METHODS = (
    "neuron_ig",
    "deeplift_rescale",
    "gradient_x_activation",
    "layer_activation",
    "internal_influence",
    RANDOM,
)
MOST = 256
"""Samples of one request at most."""
REFUSALS = ("FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")
"""The statuses of what a method refuses, where another may not: what else fails would fail for all."""


def ablation(
    asked: Any,
    model: str,
    inputs: Mapping[str, ArrayLike],
    layer: str | Sequence[str],
    *,
    methods: Sequence[str | Method] = METHODS,
    groups: Callable[[tuple[int, ...]], Whole] | Mapping[str, ArrayLike] | ArrayLike | None = None,
    kind: Kind = "deletion",
    to: Replacement | Literal["resample", "baseline"] = 0.0,
    points: int = 32,
    target: Target | Selection = None,
    baselines: Mapping[str, Any] | None = None,
    absolute: bool = False,
    draws: int = 5,
    seed: int = 0,
    batch: int = 32,
    sums: Mapping[str, Mapping[str, Floats]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ablation:
    """Ranks the groups of a layer by each method and ablates them in this order, sample by sample.

    `asked` is a client or an engine; several layers, such as all inputs of a table, are ranked together. `groups` are
    numbers from 0 that broadcast to one sample of the layer (of several, by name), or a function that makes them of its
    shape, such as `by_axes` and `patches` (default: the channels, by `channels_axis`). Methods are
    names or values of `onnx_attribution.methods`, and "random": the mean over `draws` rankings drawn by the seed, from
    which gains are counted. `to` is as for `curve`, or "baseline": the layer's values where inputs are at their
    baselines, of each sample its own where there are several, of references their mean, from which methods with a
    baseline count; means and donors are taken from all samples, or of many the first 256. `batch` samples are asked
    about at once. `sums` are what is known already: by method and layer the attributions of each group, `[samples,
    groups]`; these methods are not asked. `progress` is called with how many of how many calls are made.

    Raises:
        AttributionError: a method that there is not; a layer, group or target that no method can use. What some methods
            refuse is in `failed`.
    """
    values = {str(one) if isinstance(one, str) else one.name: one for one in methods}
    if not values:
        raise InvalidArgument("there is no method to rank by")
    if draws < 1 or batch < 1:
        raise InvalidArgument(f"draws and batch are at least 1, not {draws} and {batch}")
    known = {one.name: one for one in asked.methods()}
    for name, one in values.items():
        if name != RANDOM and (one if isinstance(one, str) else one.name) not in known:
            raise unknown(name, known)
    made = {name: None if one == RANDOM else make(one, {}) for name, one in values.items()}
    info = asked.info(model) if hasattr(asked, "info") else asked.model(model)
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    axes, count = sample_axes(arrays, info.inputs, info.batch)
    starts = range(0, count, min(batch, MOST))
    donors = None if count <= batch else taken(arrays, axes, range(min(count, MOST)))
    replaced: Any = to
    at_baseline = isinstance(to, str) and to == BASELINE
    if at_baseline:
        replaced = Patch()
    asks = [*(name for name in made if name != RANDOM), *([RANDOM] * draws if RANDOM in made else [])]
    parts: dict[str, list[list[Curve]]] = {name: [] for name in made}
    failed: dict[str, AttributionError] = {}
    warnings: dict[str, None] = {}
    done, wanted = 0, Target.of(target)
    layers = (layer,) if isinstance(layer, str) else tuple(layer)
    apart_by: Any = _Channels(asked, model, layers) if groups is None else groups
    units: dict[str, tuple[int, ...]] = {}
    for turn, start in enumerate(starts):
        numbers = range(start, min(start + batch, count))
        part, size = taken(arrays, axes, numbers), len(numbers)
        own_target = replace(
            wanted, index=_own(wanted.index, numbers, count), minus=_own(wanted.minus, numbers, count)
        )
        own_baselines = {
            name: _own_baseline(one, np.ndim(arrays[name]) if name in arrays else 0, numbers, count)
            for name, one in (baselines or {}).items()
        }
        if at_baseline:
            one_for_all = all(own is (baselines or {})[name] for name, own in own_baselines.items())
            donors = _at_baseline(taken(part, axes, range(1)) if one_for_all else part, own_baselines)
        units = units or _units(asked, model, part, layers, own_target)
        drawn: list[Curve] = []
        for draw, name in enumerate(asks):
            if name in failed:
                done += 1
                continue
            method = made[name]
            if method is None:
                own = seed + (turn * len(asks) + draw) * 7919
                order = random_ranks(size, units, _grouped(apart_by, units), seed=own)
            else:
                own_groups = _grouped(apart_by, units)
                known_sums = (sums or {}).get(name)
                if known_sums is None:
                    try:
                        answer = _attributed(asked, model, part, method, layers, own_target, own_baselines)
                        scores = _scores(answer, layers, units)
                    except AttributionError as error:
                        if error.status not in REFUSALS:
                            raise
                        failed[name] = error
                        continue
                    warnings |= dict.fromkeys(answer.warnings)
                else:
                    scores = {
                        own: _spread(known_sums[own][list(numbers)], np.broadcast_to(own_groups[own], unit))
                        for own, unit in units.items()
                    }
                order = ranks_of(scores, own_groups, absolute=absolute)
            found = curve(
                asked, model, part, order, kind=kind, to=replaced, points=points, target=own_target,
                donors=donors if isinstance(replaced, str | Patch) else None, seed=seed,
            )  # fmt: skip
            if method is None:
                drawn.append(found)
            else:
                parts[name].append([found])
            done += 1
            if progress is not None:
                progress(done, len(asks) * len(starts))
        if drawn:
            parts[RANDOM].append(drawn)
    curves = {name: _joined(each) for name, each in parts.items() if each}
    if not curves:
        raise _of_all(failed)
    groups_count = next(iter(curves.values())).groups
    reasons = {name: error.message for name, error in failed.items()}
    return Ablation(
        model, ", ".join(layers), kind, _word(to), count, groups_count, draws, curves, reasons, tuple(warnings)
    )  # fmt: skip


def _of_all(failed: Mapping[str, AttributionError]) -> AttributionError:
    """What is said where no method has an answer: the same of all is said once."""
    first = next(iter(failed.values()))
    if len({error.message for error in failed.values()}) == 1:
        return first
    return InvalidArgument("; ".join(f"{name}: {error.message}" for name, error in failed.items()))


def _word(to: Any) -> str:
    if isinstance(to, str):
        return {
            MEAN: "replaced by its mean",
            RESAMPLE: "resampled",
            BASELINE: "set to what it is at the baseline",
        }[to]
    if isinstance(to, Patch):
        return "patched"
    return "removed" if not np.any(to) else f"set to {to:g}" if np.ndim(to) == 0 else "set"


class _Channels:
    """The groups of layers by their channels."""

    def __init__(self, asked: Any, model: str, layers: Sequence[str]) -> None:
        known = asked.layers(model)
        self._known = {
            layer: next((one for one in known if layer in (one.name, one.node)), None) for layer in layers
        }

    def of(self, layer: str, unit: tuple[int, ...]) -> Whole:
        return by_axes(unit, channels_axis(unit, self._known[layer]) if unit else None)


def _grouped(groups: Any, units: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The groups of each layer."""
    if isinstance(groups, _Channels):
        return dict(apart({name: groups.of(name, unit) for name, unit in units.items()}))
    if callable(groups):
        return dict(apart({name: np.asarray(groups(unit)) for name, unit in units.items()}))
    return dict(groups) if isinstance(groups, Mapping) else dict.fromkeys(units, groups)


def _spread(sums: Floats, groups: Whole) -> Floats:
    """Attributions of a layer, `[samples, *unit]`, whose groups have these sums."""
    known, ids = np.unique(groups, return_inverse=True)
    ids = ids.reshape(groups.shape)
    if sums.shape[1:] != known.shape:
        raise InvalidArgument(f"there are sums of {sums[:1].size} groups, and {len(known)} groups")
    return np.asarray(sums[:, ids] / np.bincount(ids.reshape(-1))[ids], np.float64)


def _own(index: Any, numbers: range, count: int) -> Any:
    """What a target's index says of some of the samples, where it has an entry for each."""
    is_list = isinstance(index, list) or (isinstance(index, np.ndarray) and index.dtype.kind in "iu")
    if not is_list or len(index) != count or count == 1:
        return index
    found = [index[k] for k in numbers]
    return found[0] if len(found) == 1 else found


def _own_baseline(baseline: Any, rank: int, numbers: range, count: int) -> Any:
    """The baselines of some of the samples, where there is one for each."""
    own = baseline.values if isinstance(baseline, References) and baseline.per_sample else baseline
    if not isinstance(own, np.ndarray) or not own.ndim or len(own) != count or count == 1:
        return baseline
    if own is not baseline:
        return References(own[list(numbers)], per_sample=True)
    return own[list(numbers)] if own.ndim == rank else baseline


def _at_baseline(sample: Mapping[str, Array], baselines: Mapping[str, Any]) -> dict[str, Array]:
    """Samples of the inputs at their baselines, of several references at their mean.

    Raises:
        InvalidArgument: an input has no baseline that they could have.
    """
    found: dict[str, Array] = {}
    for name, array in sample.items():
        given = baselines.get(name, 0.0)
        if isinstance(given, References):
            given = given.values.astype(np.float64).mean(axis=1 if given.per_sample else 0)
        if array.dtype.kind not in "fV":
            raise InvalidArgument(
                f"{name!r} holds {array.dtype.name}, which has no baseline; take another `to`"
            )
        try:
            found[name] = np.broadcast_to(np.asarray(given, np.float64), array.shape).astype(array.dtype)
        except (TypeError, ValueError):
            raise InvalidArgument(
                f"the baseline of {name!r} is not one for all samples, nor one for each; take another `to`"
            ) from None
    if unknown := baselines.keys() - sample.keys():
        raise InvalidArgument(
            f"{', '.join(sorted(unknown))} is no input; take another `to` than {BASELINE!r}"
        )
    return found


def _joined(parts: Sequence[Sequence[Curve]]) -> Curve:
    """The curves of all samples, each the mean over its draws; decisions are those of the first draw."""
    first = parts[0][0]
    values = [np.mean([one.values for one in draws], axis=0) for draws in parts]
    return Curve(
        first.kind,
        first.groups,
        first.counts,
        np.concatenate(values),
        np.concatenate([p[0].largest for p in parts]),
    )


def _attributed(
    asked: Any,
    model: str,
    inputs: Mapping[str, Array],
    method: Method,
    layers: Sequence[str],
    target: Target,
    baselines: Mapping[str, Any],
) -> Attribution:
    options: dict[str, Any] = {
        "method": method,
        "layers": list(layers),
        "target": target,
        "baselines": baselines,
    }
    if hasattr(asked, "info"):  # an engine
        found: Attribution = asked.attribute(AttributionRequest(model, inputs, **options))
    else:
        found = asked.attribute(model, inputs, **options)
    return found


def _scores(
    answer: Attribution, layers: Sequence[str], units: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Floats]:
    """The attributions by the names that the layers were asked for by.

    Raises:
        InvalidArgument: one layer has two names, or the attributions are of something else than its neurons.
    """
    if len(answer.layers) != len(layers):
        raise InvalidArgument(
            f"{', '.join(layers)} are {len(answer.layers)} layers, {', '.join(answer.layers)}: name each once"
        )
    values = (np.asarray(one.values, np.float64) for one in answer.layers.values())
    found = {name: _without_front(each, answer.batch) for name, each in zip(layers, values, strict=True)}
    for name, own in zip(found, answer.layers, strict=True):
        if units is not None and found[name].shape[1:] != units[name]:
            raise InvalidArgument(
                f"{answer.method} gives no number for each neuron of {name!r}: a sample has the shape "
                f"{list(units[name])}, its map of {own!r} {list(found[name].shape[1:])}"
            )
    return found


def _without_front(array: Floats, batch: str | None) -> Floats:
    """Of samples run one by one, without the axis of size 1 that each has in front."""
    return array[:, 0] if batch == "single" and array.ndim > 2 and array.shape[1] == 1 else array


def _units(
    asked: Any, model: str, inputs: Mapping[str, Array], layers: Sequence[str], target: Target
) -> dict[str, tuple[int, ...]]:
    """The shapes of one sample of the layers."""
    try:
        answer = _attributed(asked, model, inputs, LayerActivation(), layers, target, {})
        return {name: each.shape[1:] for name, each in _scores(answer, layers).items()}
    except InvalidArgument:  # text
        found: Intervened = asked.intervene(model, inputs, [[]], target=target, outputs=list(layers))
    arrays = found.outputs_before.values()
    return {name: array.shape[1:] for name, array in zip(layers, arrays, strict=True)}

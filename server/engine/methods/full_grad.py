"""FullGrad: the target as a sum of terms, each source times its gradient and each bias times its own, and the map that
is made of them (arXiv 1905.00780)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnx_attribution.graph_tools.programs.bias_terms import bias_terms_program
from onnx_attribution.methods import FullGrad, FullGradTerms
from onnx_attribution.server.engine.methods.cam import COUNTED
from onnx_attribution.server.engine.methods.maps import channel_axis, lies_last, resized, samples_first
from onnx_attribution.server.engine.methods.stages import Stage, one_by_one
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Biases, Floats, Recipe, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.samples import Run
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums, apart, row_limit
from onnx_attribution.values import Array

EPSILON = 1e-6
"""What the authors' code adds to a range before it divides by it."""


@recipe(FullGrad)
def full_grad(method: FullGrad) -> Recipe:
    counted = COUNTED[method.sign]
    at = Biases(
        mapped=True,
        plain=not method.multiply_by_biases,
        normalised=method.normalise and ("range" if method.sign != "signed" else "magnitude"),
        channel_axis=method.channel_axis,
        upsample=method.upsample,
    )
    return Recipe(at, lambda term, _: counted(term), multiplied=True)


@recipe(FullGradTerms)
def full_grad_terms(method: FullGradTerms) -> Recipe:
    return Recipe(Biases(), sums_to_value=True, multiplied=True)


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: gradients are exact."""
    yield one_by_one(0, asked, lambda one: one.samples.count, lambda one: _terms(model, one, memory))


def _terms(model: LoadedModel, resolved: Resolved, memory: int) -> Evaluation:
    """The terms, or the maps made of them; and by how much the terms miss the target."""
    at, samples = _at(resolved), resolved.samples
    names = list(dict.fromkeys([*resolved.choice.sources, *resolved.beside]))
    choice, table = resolved.choice, resolved.recipe.table
    key = ("bias terms", choice.sources, choice.target, tuple(resolved.beside), id(table), at.plain)
    session = model.session(
        key, lambda: bias_terms_program(model.network, choice, resolved.beside, rules=table, plain=at.plain)
    )
    parts: dict[str, list[Floats]] = {name: [] for name in resolved.choice.layers}
    values, sums, sizes = list[Floats](), list[Floats](), list[Floats]()

    def run(part: Run) -> dict[str, Array]:
        return session.run(part.feeds())

    for part in samples.parts(row_limit(model, samples, memory, session, samples.runs[0].shapes)):
        for (found,), evaluated in apart([part], lambda parts: [run(parts[0])]):
            terms = {name: samples.units(name, found[f"term/{name}"]) for name in names}
            values.append(found["target/value"].astype(np.float64))
            sums.append(np.sum([per_sample(term) for term in terms.values()], axis=0))
            sizes.append(np.sum([per_sample(np.abs(term)) for term in terms.values()], axis=0))
            made = (
                _maps(resolved, terms) if at.mapped else {n: _counted(resolved, n, terms[n]) for n in parts}
            )
            for name, array in made.items():
                parts[name].append(array)
            yield evaluated
    value = np.concatenate(values)
    missed = None if at.plain else (np.concatenate(sums) - value, np.concatenate(sizes))
    return Sums({name: np.concatenate(p) for name, p in parts.items()}, {}, value, missed=missed)


def _at(resolved: Resolved) -> Biases:
    at = resolved.recipe.at
    assert isinstance(at, Biases)
    return at


def _counted(resolved: Resolved, name: str, term: Floats) -> Floats:
    """A term as its sign counts it, and its range brought to 1 for each sample."""
    at = _at(resolved)
    found = resolved.recipe.reduced(resolved.request.method.name, term, term)
    axes = tuple(range(1, found.ndim))
    if not at.normalised or not found.size:
        return found
    if at.normalised == "magnitude":
        return np.asarray(found / (np.abs(found).max(axis=axes, keepdims=True) + EPSILON))
    found = found - found.min(axis=axes, keepdims=True)
    return np.asarray(found / (found.max(axis=axes, keepdims=True) + EPSILON))


def _maps(resolved: Resolved, terms: Mapping[str, Floats]) -> dict[str, Floats]:
    """By source the sum over channels of its term and of those of as many axes, brought to its size."""
    at, made = _at(resolved), dict[str, Floats]()
    for source in resolved.choice.sources:
        found, alone = samples_first(resolved, source, _counted(resolved, source, terms[source]))
        laid = [samples_first(resolved, n, _counted(resolved, n, terms[n]))[0] for n in resolved.beside]
        axis = channel_axis(source, found.shape, at.channel_axis)
        others = [np.moveaxis(own, axis, 1) for own in laid if own.ndim == found.ndim > 2]
        if others:
            is_last = lies_last(found.shape[1:], others[0].shape[2:], axis == found.ndim - 1)
            axis = found.ndim - 1 if is_last else 1
        total = np.moveaxis(found, axis, 1).sum(axis=1, keepdims=True)
        for own in others:
            total = total + resized(own.sum(axis=1, keepdims=True), total.shape[2:], at.upsample)
        total = np.moveaxis(total, 1, axis)
        made[source] = total[:, None] if alone else total
    return made

"""Runs DeepLIFT: pairs of rows at x and x', or rows at x beside one reference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_attribution.errors import ModelError, NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inner_nodes, key_of
from onnx_attribution.graph_tools.operators import OPERATORS
from onnx_attribution.graph_tools.programs.halves import halves
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Program
from onnx_attribution.graph_tools.walk.reveal_nodes import Where
from onnx_attribution.methods import DeepLiftGenomicsDefault, DeepLiftRescale, DeepLiftRevealCancel
from onnx_attribution.server.engine.backend import Session
from onnx_attribution.server.engine.methods.stages import SeveralEvaluations, Stage, by_tensor
from onnx_attribution.server.engine.models.forward import taken
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Ends, Recipe, contribution, multiplier, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.samples import Run
from onnx_attribution.server.engine.rows.evaluate import (
    Floats,
    Sums,
    apart,
    row_limit,
)
from onnx_attribution.server.engine.rows.shared import Shared, shared
from onnx_attribution.values import Array

KEPT = 4
"""The part of the memory that references may take: one in so many bytes."""


@recipe(DeepLiftRescale)
def deeplift_rescale(method: DeepLiftRescale) -> Recipe:
    return _between_ends(method, None)


@recipe(DeepLiftRevealCancel)
def deeplift_reveal_cancel(method: DeepLiftRevealCancel) -> Recipe:
    return _between_ends(method, "everywhere")


@recipe(DeepLiftGenomicsDefault)
def deeplift_genomics_default(method: DeepLiftGenomicsDefault) -> Recipe:
    return _between_ends(method, "dense")


def _between_ends(
    method: DeepLiftRescale | DeepLiftRevealCancel | DeepLiftGenomicsDefault, reveal_cancel: Where | None
) -> Recipe:
    reduce = contribution if method.multiply_by_inputs else multiplier
    return Recipe(Ends(method.near_zero, reveal_cancel), reduce, sums_to_change=method.multiply_by_inputs)


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: secants are exact."""
    yield by_tensor(
        0,
        asked,
        lambda one: deeplift_evaluations(model, one, memory),
        lambda ones: deeplift(model, ones, memory),
    )


def deeplift(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> SeveralEvaluations:
    """DeepLIFT contributions, or multipliers, of targets in one tensor. A reference that all samples share is evaluated
    once, and kept for other requests within a part of the memory; that of a single sample when it comes again: at first
    a pair is faster."""
    resolved = asked[0]
    one = _one_reference(model, resolved)
    if one and (resolved.samples.count > 1 or model.references.seen(one.key)):
        try:
            return (yield from _lifted(model, asked, memory, one))
        except ModelError:  # what it makes of one row does not broadcast to the rows
            model.apart.add(resolved.choice)
    return (yield from _lifted(model, asked, memory))


def deeplift_evaluations(model: LoadedModel, resolved: Resolved, memory: int) -> int:
    """How many rows DeepLIFT evaluates, as far as that is known before."""
    one = _one_reference(model, resolved)
    if not one or (resolved.samples.count == 1 and not model.references.is_seen(one.key)):
        return 2 * resolved.samples.count
    return resolved.samples.count + (model.references.get(one.key) is None)


def _ends(resolved: Resolved) -> Ends:
    assert isinstance(resolved.recipe.at, Ends)
    return resolved.recipe.at


def _pairs_a_run(model: LoadedModel, resolved: Resolved, memory: int) -> int:
    return max(row_limit(model, resolved.samples, memory) // 2, 1)


@dataclass(frozen=True)
class _Reference:
    """The sources at x' as one row, for one kind of program."""

    rows: Mapping[str, Array]
    kind: tuple[object, ...]

    @property
    def inputs(self) -> dict[str, Array]:
        """As a program takes them."""
        return {f"baseline/{name}": array for name, array in self.rows.items()}

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What the activations there are kept under."""
        digest = hashlib.sha256()
        for name in sorted(self.rows):
            array = np.ascontiguousarray(self.rows[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return (*self.kind, digest.digest())


def _one_reference(model: LoadedModel, resolved: Resolved) -> _Reference | None:
    """The sources at x' as one row, if it is the same for all samples, and nothing but sources differs between them.

    For the Rescale rule: with RevealCancel the rows' own parts outweigh what one reference saves.
    """
    axes = model.network.input_axes
    own = {name for name, axis in axes.items() if axis is not None}
    if not resolved.samples.together or not own <= set(resolved.choice.sources):
        return None
    if _ends(resolved).reveal_cancel is not None or resolved.choice in model.apart:
        return None
    found: dict[str, Array] = {}
    for name, array in resolved.samples.runs[0].baselines.items():
        place = resolved.samples.place(name)
        if place is None or place.factor != 1:
            return None
        found[name] = taken(array, place, [0])
        if not np.array_equal(np.broadcast_to(found[name], array.shape), array):
            return None
    return _Reference(found, _key(resolved)) if found else None


def _lifted(
    model: LoadedModel,
    asked: Sequence[Resolved],
    memory: int,
    given: _Reference | None = None,
) -> SeveralEvaluations:
    resolved, alone = asked[0], given is None
    reference = given.inputs if given else {}
    two = None if alone else _in_two(model, resolved)
    in_two = two is not None
    program: Session | Shared | None = None
    if two is None:
        key, build = _key(resolved, alone), lambda: _program(model, resolved, alone)
    else:
        single = resolved.samples.count == 1
        key, build = (*_key(resolved, single), "x"), lambda: _half(model, resolved, single)
    if len(asked) > 1:
        program = shared(model, key, build)
    session = program or (model.session(key, build) if two is None else two[1])
    limiting = session.before if isinstance(session, Shared) else session
    if two is not None and given is not None:
        kept, evaluated = _activations(model, two[0], given, memory, [*limiting.inputs, *two[1].inputs])
        reference = {**reference, **kept}
        if evaluated:
            yield evaluated
    parts: list[dict[str, list[Floats]]] = [{layer: [] for layer in resolved.choice.layers} for _ in asked]
    ends: list[dict[str, list[Floats]]] = [{"target/value": [], "target/baseline": []} for _ in asked]
    held = limiting.hold(reference, also=session.behind.inputs if isinstance(session, Shared) else ())

    def run(each: Sequence[Run]) -> list[dict[str, Array]]:
        if isinstance(session, Shared):
            feeds = each[0].feeds(baselines=alone)
            return session.run({**feeds, **held}, [part.weight for part in each])
        return [session.run({**part.feeds(baselines=alone), **held}) for part in each]

    def shapes_at(rows: int) -> dict[str, tuple[int, ...]]:
        shapes = resolved.samples.runs[0].shapes(rows, baselines=True)
        return shapes | {name: array.shape for name, array in reference.items()}

    limit = min(
        _pairs_a_run(model, resolved, memory), row_limit(model, resolved.samples, memory, limiting, shapes_at)
    )
    if isinstance(session, Shared):
        limit = max(limit // 2, 1)  # all that is made for the way back is alive at once
    for part in zip(*(one.samples.parts(limit) for one in asked), strict=True):
        for each, rows in apart(part, run):
            for k, found in enumerate(each):
                _refuse_lost_changes(model, found)
                _refuse_different_ways(model, resolved, found)
                for name, values in ends[k].items():
                    wide = found[name].astype(np.float64)
                    values.append(np.broadcast_to(wide, found["target/value"].shape))
                for layer in resolved.choice.layers:
                    contribution = found[f"contribution/{layer}"]
                    parts[k][layer].append(resolved.samples.units(layer, contribution))
            yield len(asked) * (2 * rows if alone else rows if in_two else rows + 1)
    sums = []
    for own, each_end in zip(parts, ends, strict=True):
        high, low = (np.concatenate(values) for values in each_end.values())
        sums.append(Sums({layer: np.concatenate(p) for layer, p in own.items()}, {}, high, low))
    return sums


def _half(model: LoadedModel, resolved: Resolved, single: bool) -> Program:
    """The part of the program that depends on x."""
    found = halves(_program(model, resolved, alone=single, given=True))
    assert found is not None
    return found[1]


def _key(resolved: Resolved, *more: object) -> tuple[object, ...]:
    at, recipe = _ends(resolved), resolved.recipe
    multiply = recipe.reduce is not multiplier
    return ("deeplift", resolved.choice, multiply, at.reveal_cancel, at.near_zero, recipe.rules, *more)


def _program(model: LoadedModel, resolved: Resolved, alone: bool, given: bool = False) -> Program:
    at, recipe = _ends(resolved), resolved.recipe
    return deeplift_program(
        model.network,
        resolved.choice,
        multiply=recipe.reduce is not multiplier,
        rules=recipe.table,
        reveal_cancel=at.reveal_cancel,
        near_zero=at.near_zero,
        shared=not alone,
        given=given,
    )


def _in_two(model: LoadedModel, resolved: Resolved) -> tuple[Session, Session] | None:
    """The network at a reference of one row, and what is done with that at x; None where these cannot be told apart.

    A single sample is a pair with its reference: no tensor is repeated for its rows.
    """
    single = resolved.samples.count == 1
    return model.in_two(
        _key(resolved, single),
        ("reference", "x"),
        lambda: halves(_program(model, resolved, alone=single, given=True)),
    )


def _activations(
    model: LoadedModel, session: Session, reference: _Reference, memory: int, read: Sequence[str]
) -> tuple[Mapping[str, Array], int]:
    """The network at a reference, as it was kept or evaluated now; and how many rows that took.

    What one sample and what several read of it (`read`) is the same, as far as their programs are.
    """
    found = model.references.get(reference.key)
    if found is not None and all(name in found for name in read if name.startswith("reference/")):
        return found, 0
    found = session.run(reference.inputs)
    model.references.put(reference.key, found, memory // KEPT)
    return found, 1


def _refuse_different_ways(model: LoadedModel, resolved: Resolved, found: Mapping[str, Array]) -> None:
    """Refuses NaN of a model with branches and bodies: what arrives at one that x and x' take differently turns to NaN.

    So does what goes through an operator inside of them that has no secant.
    """
    ends = [found[name].astype(np.float64) for name in ("target/value", "target/baseline")]
    given = [found[f"contribution/{layer}"].astype(np.float64) for layer in resolved.choice.layers]
    ways = [node for node in model.graph.nodes if graphs_of(node)]
    if ways and all(np.isfinite(end).all() for end in ends) and any(np.isnan(c).any() for c in given):
        inside = [(one, OPERATORS.get(key_of(one))) for one in inner_nodes(ways[0])]
        stops = [one for one, rule in inside if rule is not None and rule.unfollowed]
        named = ", ".join(f"{one.op} (node {one.name!r})" for one in stops)
        raise NotDifferentiable(
            f"DeepLIFT has no rule for {ways[0].op} (node {ways[0].name!r}) where x and x' go different ways"
            + (f", or where the output of {named} inside of it changes" if stops else "")
            + "; choose a reference that goes the way of x",
            reason=Reason.NO_SECANT, node=ways[0].name, operator=ways[0].op,
        )  # fmt: skip


def _refuse_lost_changes(model: LoadedModel, found: Mapping[str, Array]) -> None:
    """Refuses where a part of the target's change goes through an operator that has no secant."""
    for name, lost in found.items():
        if name.startswith("lost/") and float(lost) > 0:
            tensor = name.removeprefix("lost/")
            made_by = {z.name: node for node in model.graph.nodes for z in node.outputs}
            node = made_by.get(tensor)
            operator, place = (node.op, f"node {node.name!r}") if node else ("what makes", repr(tensor))
            raise NotDifferentiable(
                f"DeepLIFT has no rule for {operator} ({place}), whose output changes between x and x'; choose layers "
                "behind it, or a reference that leaves its output as it is",
                reason=Reason.NO_SECANT, node=node.name if node else "", operator=operator, tensor=tensor,
            )  # fmt: skip

"""Which tensors every way from the sources to the target crosses."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY as SHAPE_ONLY
from onnx_attribution.graph_tools.ir.reach import ancestors
from onnx_attribution.graph_tools.ir.reach import dependents as dependents
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of


def cut_tensors(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> set[str]:
    """The tensors that every way from the sources to the target crosses; what makes a source is no part of a way.

    In an order in which every edge leads forward, a tensor is crossed by every way exactly if no edge between tensors
    and nodes on such ways leaps over it.
    """
    given = frozenset(sources)
    between = dependents(nodes, sources) & ancestors(nodes, [target], given)
    if target not in between:
        return set()
    place: dict[str, int] = dict.fromkeys(sources, 0)
    clock, furthest, cuts = 0, 0, set[str]()
    last_use: dict[str, int] = {}
    order: list[tuple[int, gs.Node]] = []
    for node in nodes:
        if node.op in SHAPE_ONLY or not any(x.name in between for x in inputs_of(node)):
            continue
        if not any(z.name in between and z.name not in given for z in node.outputs):
            continue
        clock += 1
        order.append((clock, node))
        for x in inputs_of(node):
            if x.name in between:
                last_use[x.name] = clock
        for z in node.outputs:
            if z.name in between:
                place.setdefault(z.name, clock)
    live = [name for name in place if name in between]
    if len([s for s in sources if s in between]) == 1:
        cuts.update(s for s in sources if s in between)
    furthest = max((last_use.get(s, 0) for s in sources if s in between), default=0)
    for moment, node in order:
        made = [z.name for z in node.outputs if z.name in between and z.name not in given]
        # every way passes this node if no tensor made earlier is used later
        if furthest <= moment and len(made) == 1:
            cuts.add(made[0])
        furthest = max([furthest, *[last_use.get(name, 0) for name in made]])
    return {name for name in cuts if name in live}


def is_cut(nodes: Sequence[gs.Node], sources: Sequence[str], target: str, layers: Sequence[str]) -> bool:
    """Whether every way from the sources to the target crosses one of the layers."""
    crossed = set(layers)
    found = {name for name in sources if name not in crossed}
    if target in crossed:
        return True
    for node in nodes:
        if node.op not in SHAPE_ONLY and any(x.name in found for x in inputs_of(node)):
            found.update(z.name for z in node.outputs if z.name not in crossed)
    return target not in found


def is_joint_cut(
    nodes: Sequence[gs.Node], sources: Sequence[str], target: str, layers: Sequence[str]
) -> bool:
    """Whether every way from the sources to the target crosses exactly one of several layers, the sources themselves
    for one: then what they contribute sums to the change."""
    return len(layers) > 1 and _crossings(nodes, sources, target, layers) == (1, 1)


def _crossings(
    nodes: Sequence[gs.Node], sources: Sequence[str], target: str, layers: Sequence[str]
) -> tuple[int, int]:
    """How many of the layers a way from the sources to the target crosses, at least and at most; 0, 0 for no way."""
    crossed, given = frozenset(layers), frozenset(sources)
    found = {name: (int(name in crossed), int(name in crossed)) for name in sources}
    for node in nodes:
        if node.op in SHAPE_ONLY:
            continue
        came = [found[x.name] for x in inputs_of(node) if x.name in found]
        if not came:
            continue
        least, most = min(one[0] for one in came), max(one[1] for one in came)
        for z in node.outputs:
            if z.name not in given:  # what makes a source is no part of a way
                own = int(z.name in crossed)
                found[z.name] = (least + own, most + own)
    return found.get(target, (0, 0))


def cut_sets(
    nodes: Sequence[gs.Node], sources: Sequence[str], target: str, layers: Sequence[str]
) -> list[tuple[str, ...]]:
    """Sets of two or more of the layers that every way from the sources to the target crosses exactly one of, from the
    sources to the target.

    Looked at are fronts: the layers that lie nearest before, and nearest behind, what is alive between two nodes, as
    nodes follow each other in the graph and by their distance from the sources. Other mixtures of the layers of
    parallel branches may be cuts, too; there may be as many as products of the branches' lengths.
    """
    found: dict[tuple[str, ...], None] = {}
    order = {name: k for k, name in enumerate([*sources, *(z.name for node in nodes for z in node.outputs)])}
    chosen = sorted(dict.fromkeys(layers), key=lambda name: order.get(name, 0))
    ways = _ways(nodes, sources, target)
    for front in _fronts(ways, sources, target, chosen):
        names = tuple(name for k, name in enumerate(chosen) if front >> k & 1)
        if len(names) > 1 and names not in found and is_joint_cut(ways, sources, target, names):
            found[names] = None
    return sorted(found, key=lambda names: [order.get(name, 0) for name in names])


def _ways(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> list[gs.Node]:
    """The nodes on ways from the sources to the target."""
    given = frozenset(sources)
    between = dependents(nodes, sources) & ancestors(nodes, [target], given)
    return [
        node
        for node in nodes
        if node.op not in SHAPE_ONLY
        and any(x.name in between for x in inputs_of(node))
        and any(z.name in between and z.name not in given for z in node.outputs)
    ]


def _fronts(
    ways: Sequence[gs.Node], sources: Sequence[str], target: str, chosen: Sequence[str]
) -> Iterator[int]:
    """Candidates as bits, the lowest for the first of the chosen layers; none of those that some way leaves out, or of
    which one lies behind another."""
    bit = {name: 1 << k for k, name in enumerate(chosen)}
    none = 1 << len(chosen)  # a way that crosses none
    live = {x.name for node in ways for x in inputs_of(node)} | {target}
    before, passed, level = dict[str, int](), dict[str, int](), dict[str, int]()
    for name in sources:
        before[name], passed[name], level[name] = bit.get(name, none), bit.get(name, 0), 0
    for node in ways:
        came = [x.name for x in inputs_of(node) if x.name in before]
        near, past = _any(before[x] for x in came), _any(passed[x] for x in came)
        for z in node.outputs:
            if z.name in live and z.name not in sources:
                before[z.name], passed[z.name] = bit.get(z.name, near), past | bit.get(z.name, 0)
                level[z.name] = 1 + max(level[x] for x in came)
    behind = {target: none}
    for node in reversed(ways):
        came_back = _any(bit.get(z.name, behind.get(z.name, 0)) for z in node.outputs)
        for x in inputs_of(node):
            if x.name in before:
                behind[x.name] = behind.get(x.name, 0) | came_back
    clock = {z.name: k + 1 for k, node in enumerate(ways) for z in node.outputs}
    seen = set[int]()
    for place in (clock, level):
        for front in _alive(ways, sources, target, place, before, behind):
            if front in seen or front & none or front & (front - 1) == 0:
                continue
            seen.add(front)
            names = [name for name in chosen if front & bit[name]]
            if not any((passed[name] & ~bit[name]) & front for name in names if name in passed):
                yield front


def _alive(
    ways: Sequence[gs.Node],
    sources: Sequence[str],
    target: str,
    place: Mapping[str, int],
    before: Mapping[str, int],
    behind: Mapping[str, int],
) -> Iterator[int]:
    """At each moment the layers nearest before what is alive, and those nearest behind it."""
    made = {name: place.get(name, 0) if name not in sources else 0 for name in before}
    last = dict.fromkeys(before, 0)
    for node in ways:
        ends = [made[z.name] for z in node.outputs if z.name in made and z.name not in sources]
        for x in inputs_of(node):
            if x.name in last and ends:
                last[x.name] = max(last[x.name], *ends)
    last[target] = max(last.values(), default=0) + 1
    starts, ends_at = dict[int, list[str]](), dict[int, list[str]]()
    for name in before:
        starts.setdefault(made[name], []).append(name)
        ends_at.setdefault(last[name], []).append(name)
    alive: dict[str, None] = {}
    for moment in sorted({*starts, *ends_at}):
        for name in ends_at.get(moment, ()):
            alive.pop(name, None)
        for name in starts.get(moment, ()):
            if last[name] > moment:
                alive[name] = None
        yield _any(before[name] for name in alive)
        yield _any(behind.get(name, 0) for name in alive)


def _any(bits: Iterable[int]) -> int:
    """All bits of these."""
    return functools.reduce(operator.or_, bits, 0)

"""Random small models with samples, each drawn from two numbers: a seed and its place in the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_attribution.values import Index
from tests.fuzz import bodies, operators
from tests.fuzz.draft import Array, Dims, Draft, N, Value, broadcast, replaced, spread, without
from tests.fuzz.recipes import THEMES, TURNS, Recipe

OPSETS = (13, 17, 18, 21)
WORDS = 5  # rows of a table of embeddings


@dataclass(frozen=True)
class Input:
    """An input of the file; `dims` say on which axis its samples lie, if each has its own."""

    name: str
    dims: Dims
    integers: bool = False

    @property
    def axis(self) -> int | None:
        """The axis of the samples; None where all share the input."""
        return self.dims.index(N) if N in self.dims else None


@dataclass(frozen=True)
class Case:
    """A model with samples, each as the file takes it alone, and the number of each sample that is explained.

    `dims` are of every float tensor of the main graph. With `batchless` the file knows no batch: samples are stacked.
    The sample `outside` leaves the domain of a function, so that only the others have a right answer.
    """

    label: str
    theme: str
    model: onnx.ModelProto
    inputs: tuple[Input, ...]
    rows: tuple[Mapping[str, Array], ...]
    target: str
    index: tuple[Index, ...]
    dims: Mapping[str, Dims]
    stated: Mapping[str, int | None]
    shapes: Mapping[str, tuple[int, ...]]
    dtype: np.dtype[Any]
    batchless: bool = False
    outside: int | None = None

    def together(self, chosen: Sequence[int]) -> dict[str, Array]:
        """Some samples as a caller sends them."""
        found = {}
        for x in self.inputs:
            parts = [self.rows[k][x.name] for k in chosen]
            if self.batchless:
                found[x.name] = np.stack(parts)
            else:
                found[x.name] = parts[0] if x.axis is None else np.concatenate(parts, axis=x.axis)
        return found


def draw(seed: int, place: int, themes: Sequence[str] = TURNS) -> Case:
    """The case of a seed and a place; the themes take turns."""
    theme = themes[place % len(themes)]
    rng = np.random.default_rng([seed, place])
    recipe = THEMES[theme](rng)
    dtype = np.float64 if rng.random() < 0.75 else np.float32
    d = Draft(rng, dtype, OPSETS[int(rng.integers(len(OPSETS)))], recipe.naming == "fixed")
    inputs = _inputs(d, recipe)
    main = _network(d, recipe, inputs)
    main, leaves = _joined(d, main, inputs)
    target = Value("y", main.dims, main.size)
    d.node("Mul", [main.name, d.constant(1.5)], [target.name])
    rows, outside = _rows(d, recipe, inputs)
    model = _model(d, recipe, inputs, target, leaves)
    return Case(
        f"{seed}:{place}", theme, model, tuple(inputs), rows, target.name, _index(d, target),
        {x.name: x.dims for x in inputs if not x.integers} | {v.name: v.dims for v in (*d.made, target)},
        {x.name: x.axis for x in inputs} if recipe.major != "none" and d.chance(0.2) else {},
        _shapes(recipe, inputs), np.dtype(dtype), recipe.major == "none", outside,
    )  # fmt: skip


def _inputs(d: Draft, recipe: Recipe) -> list[Input]:
    """The inputs, most of them of shapes that combine."""
    lead: Dims = () if recipe.major == "none" else (N,)
    rank = recipe.rank or int(d.rng.choice([1, 2, 2, 2, 3, 3, 4]))
    unit = tuple(int(n) for n in d.rng.integers(2, 4 if rank > 2 else 5, size=max(rank - 1, 0)))
    if recipe.major == "none":
        unit = unit or (3,)
    if recipe.major == "time":
        unit = unit[:2] or (2,)
        base: Dims = (int(d.rng.integers(2, 4)), N, *unit[-1:])
    else:
        base = (*lead, *unit)
    found: list[Input] = []
    count = recipe.inputs or (0 if recipe.integers else int(d.rng.choice([1, 2, 2, 3])))
    for k in range(count):
        dims = base if k == 0 or d.chance(0.4) else _variant(d, base)
        found.append(Input(f"x{k}", dims))
    if recipe.scalars:
        found.append(Input("s", ()))
    if recipe.integers:
        for k in range(2 if recipe.integers == "cast" or d.chance(0.4) else 1):
            found.append(Input(f"n{k}", base[:2] if recipe.integers == "table" else base, integers=True))
    return found


def _variant(d: Draft, base: Dims) -> Dims:
    """Dimensions that broadcast with others: without the samples, without an axis, or with one of size 1."""
    place = base.index(N) if N in base else None
    free = [k for k in range(len(base)) if k != place]
    kind = d.pick(["shared", "thin", "short", "short"])
    if kind == "shared":
        dims = tuple(n for k, n in enumerate(base) if place is None or k > place)
        return dims if place is None else dims[int(d.rng.integers(len(dims) + 1)) :]
    if kind == "thin" and free and not d.fixed and place is not None:
        return replaced(base, {d.pick(free): 1})
    if kind == "short" and free and (place is not None or len(base) > 1):
        return without(base, d.pick(free))
    return base


def _network(d: Draft, recipe: Recipe, inputs: Sequence[Input]) -> Value:
    """The steps from the inputs to the value that ends in the target."""
    size = 250.0 if recipe.extreme else 60.0
    for x in inputs:
        if not x.integers:
            d.values.append(Value(x.name, x.dims, size if x.dims else 2.0))
    for x in inputs:
        if x.integers:
            _from_integers(d, recipe, x)
    main = d.pick([v for v in d.values if N in v.dims] or d.values)
    if recipe.nan:
        main = _from_nan(d, recipe, d.values[0])
    if recipe.extreme:
        found = operators.floored(d, main, whole=recipe.extreme == "all")
        main = main if found is None else found
    if recipe.whole_branch:
        main = bodies.whole_branch(d, main)
    if recipe.scalars:
        main = _with_scalar(d, main)
    hooks = [bodies.loop, bodies.loop, bodies.scan, bodies.branch]
    count = int(d.rng.integers(2, 7))
    for k in range(count):
        if d.chance(recipe.bodies) or (recipe.bodies >= 0.5 and k == 0):
            found = d.pick(hooks)(d, main)
        elif d.chance(recipe.functions):
            found = bodies.call(d, main)
        else:
            found = operators.step(d, main)
        main = found if found is not None else operators.step(d, main)
        if d.chance(0.2):
            main = d.pick([v for v in d.values if N in v.dims] or d.values)
    return main


def _from_integers(d: Draft, recipe: Recipe, x: Input) -> Value:
    if recipe.integers == "table":
        width = int(d.rng.integers(2, 4))
        table = d.constant(spread(d.rng, [WORDS, width]))
        return d.add("Gather", [table, x.name], (*x.dims, width), 2.0, axis=0)
    return d.add("Cast", [x.name], x.dims, 4.0, to=d.element)


def _from_nan(d: Draft, recipe: Recipe, x: Value) -> Value:
    """The first input behind a function that has a bounded domain, or behind one that replaces what is missing."""
    if recipe.nan == "imputed":
        d.node("IsNaN", [_single(d, x)], [missing := d.names.new("b")])
        return d.add("Where", [missing, d.constant(0.7), x], x.dims, x.size)
    inner = d.add("Add", [x, d.constant(1.5)], x.dims, x.size)
    return d.add(d.pick(["Sqrt", "Log"]), [inner], x.dims, 8.0)


def _single(d: Draft, x: Value) -> str:
    """The tensor as float32, which IsNaN takes in every opset."""
    if d.dtype == np.float32:
        return x.name
    d.node("Cast", [x.name], [found := d.names.new("t")], to=TensorProto.FLOAT)
    return found


def _with_scalar(d: Draft, x: Value) -> Value:
    """The tensor and the input of rank 0 in one."""
    (scalar,) = [v for v in d.values if v.name == "s"]
    if d.chance(0.5):
        return d.add("Mul", [x, scalar], x.dims, 2 * x.size)
    return d.add("Add", [x, d.add("Sin", [scalar], ())], x.dims, x.size + 1)


def _joined(d: Draft, main: Value, inputs: Sequence[Input]) -> tuple[Value, list[Value]]:
    """The end, into which what nothing used so far is led; and what is left aside."""
    used = {name for node in d.nodes for name in taken(node)} | {main.name}
    leaves = [v for v in d.values if v.name not in used]
    needed = [v for v in leaves if v.name in {x.name for x in inputs}]
    others = [v for v in leaves if v not in needed]
    aside = [v for v in others if d.chance(0.3)]
    if N not in main.dims and any(N in x.dims for x in inputs):
        lead = next((v for v in reversed(d.values) if N in v.dims), None)
        assert lead is not None
        main = _led(d, lead, main)
    for leaf in needed + [v for v in others if v not in aside][-4:]:
        main = _led(d, operators.tame(d, main), operators.tame(d, leaf))
    while main.dims[:1] == (1,):  # where rows are run one by one, a first axis of 1 is taken for theirs
        main = d.add("Squeeze", [main, d.integers([0])], main.dims[1:], main.size)
    return operators.tame(d, main), aside


def _led(d: Draft, main: Value, leaf: Value) -> Value:
    """Both tensors in one of the first one's shape."""
    if broadcast(main.dims, leaf.dims) != main.dims:
        if leaf.free:
            leaf = operators.reduced(d, d.pick(["ReduceSum", "ReduceMean"]), leaf, leaf.free, False)
        if leaf.axis is not None and main.axis is not None:
            dims: Dims = tuple(N if k == main.axis else 1 for k in range(len(main.dims)))
            if len(dims) > 1:
                places = [k for k in range(len(dims)) if k != main.axis]
                leaf = d.add("Unsqueeze", [leaf, d.integers(places)], dims, leaf.size)
    if d.chance(0.6):
        return d.add("Add", [main, leaf], main.dims, main.size + leaf.size)
    return d.add("Mul", [main, d.add("Cos", [leaf], leaf.dims)], main.dims, main.size)


def taken(node: onnx.NodeProto) -> list[str]:
    """The names that a node takes, those that its bodies take included."""
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            names += [name for inner in attribute.g.node for name in taken(inner)]
            names += [out.name for out in attribute.g.output]
    return names


def _index(d: Draft, target: Value) -> tuple[Index, ...]:
    """An element of the target, or a region."""
    return tuple(slice(None) if d.chance(0.5) else int(d.rng.integers(target.width(k))) for k in target.free)


def _rows(
    d: Draft, recipe: Recipe, inputs: Sequence[Input]
) -> tuple[tuple[Mapping[str, Array], ...], int | None]:
    """One to three samples of very different size and sign; zeros and the same twice are among them.

    With them the one that leaves the domain of a function.
    """
    count = int(d.rng.choice([2, 3, 3] if recipe.several else [1, 2, 3, 3]))
    scales = [1.0, 1.0, 1.0, 1.0, 0.2, 1e-3, 8.0, 40.0]
    shared = {x.name: _numbers(d, x, 1.0) for x in inputs if x.axis is None and recipe.major != "none"}
    found: list[dict[str, Array]] = []
    large = int(d.rng.integers(count))
    for k in range(count):
        scale = d.pick(scales) * d.pick([1.0, -1.0])
        if recipe.extreme:
            scale = 200.0 if k == large else 1.0
        row = {x.name: shared[x.name] if x.name in shared else _numbers(d, x, scale) for x in inputs}
        if found and d.chance(0.1) and not recipe.extreme:
            row = dict(found[-1])
        elif d.chance(0.06) and not recipe.nan:
            row = {n: a if n in shared or a.dtype.kind == "i" else np.zeros_like(a) for n, a in row.items()}
        found.append(row)
    if not recipe.nan:
        return tuple(found), None
    name, bad = inputs[0].name, int(d.rng.integers(count))
    for row in found:
        row[name] = np.abs(row[name])
    place = int(d.rng.integers(found[bad][name].size))
    found[bad][name].reshape(-1)[place] = np.nan if recipe.nan == "imputed" else -7.0
    return tuple(found), bad if recipe.nan == "domain" else None


def _numbers(d: Draft, x: Input, scale: float) -> Array:
    shape = tuple(1 if isinstance(n, str) else n for n in x.dims)
    if x.integers:
        return np.asarray(d.rng.integers(0, WORDS, size=shape))
    if not x.dims:
        scale = 1.0
    return np.asarray(d.rng.normal(size=shape) * scale, d.dtype)


def _shapes(recipe: Recipe, inputs: Sequence[Input]) -> dict[str, tuple[int, ...]]:
    """Shapes on which the file runs, where its names of axes do not say so."""
    if recipe.naming != "same":
        return {}
    return {x.name: tuple(1 if isinstance(n, str) else n for n in x.dims) for x in inputs}


def _model(
    d: Draft, recipe: Recipe, inputs: Sequence[Input], target: Value, leaves: Sequence[Value]
) -> onnx.ModelProto:
    """The file: its declarations true or, where the recipe says so, false inside."""
    declared = [
        helper.make_tensor_value_info(
            x.name, TensorProto.INT64 if x.integers else d.element, _shape(recipe, x.dims, k)
        )
        for k, x in enumerate(inputs)
    ]
    outputs = [(target.name, target.dims)]
    if recipe.side:
        outputs += _side_outputs(d, target)
    outputs += [(v.name, v.dims) for v in leaves]
    mild = d.chance(0.6)
    graph = helper.make_graph(
        d.nodes,
        "g",
        declared,
        [
            helper.make_tensor_value_info(
                name,
                d.element,
                _false(d, dims, mild) if recipe.stale and d.chance(0.4) else _shape(recipe, dims, 9),
            )
            for name, dims in outputs
        ],
        d.constants,
    )
    if recipe.stale:
        graph.value_info.extend(
            helper.make_tensor_value_info(v.name, d.element, _false(d, v.dims, mild))
            for v in d.made
            if d.chance(0.6) and v.name not in {name for name, _ in outputs}
        )
    imports = [helper.make_opsetid("", d.opset)]
    if d.functions:
        imports.append(helper.make_opsetid(bodies.DOMAIN, 1))
    model = helper.make_model(graph, opset_imports=imports, functions=d.functions)
    model.ir_version = 10 if d.functions else int(d.pick([8, 9, 10]))
    return model


def _shape(recipe: Recipe, dims: Dims, place: int) -> list[Any]:
    """Dimensions as they are declared."""
    word: Any = {"apart": f"unk__{place}", "unnamed": None, "same": "?", "fixed": 1}.get(recipe.naming, N)
    return [word if n == N else ("?" if recipe.naming == "same" and place % 2 else n) for n in dims]


def _false(d: Draft, dims: Dims, mild: bool) -> list[Any] | None:
    """A declaration that does not hold: of a batch of 1, of another size or rank, or none."""
    kind = "one" if mild else d.pick(["one", "one", "scalar", "size", "rank", "none"])
    if kind == "none":
        return None
    if kind == "scalar":
        return []
    if kind == "rank":
        return [*dims, 2] if d.chance(0.5) else list(dims[1:])
    shape = [1 if isinstance(n, str) else n for n in dims]
    if kind == "size" and shape:
        shape[int(d.rng.integers(len(shape)))] += 1
    return shape


def _side_outputs(d: Draft, target: Value) -> list[tuple[str, Dims]]:
    """Outputs that the target does not need, and that mix samples."""
    kind = d.pick(["mean", "softmax", "sum"])
    if kind == "softmax" and target.axis is not None:
        found = d.add("Softmax", [target], target.dims, axis=target.axis)
    elif kind == "sum" and target.axis is not None:
        found = d.add("CumSum", [target, d.constant(target.axis, np.int64)], target.dims)
    else:
        found = d.add("ReduceMean", [target], (), keepdims=0)
    d.made.remove(found)
    return [(found.name, found.dims)]

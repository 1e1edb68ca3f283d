"""What each node does to the parts of a change on the way forward, and to their multipliers on the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.broadcast import unbroadcast
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.operators import NodeView, Rule, RuleTable
from onnx_attribution.graph_tools.operators.ends import near, quotient, shaped
from onnx_attribution.graph_tools.operators.huge import may_be_huge
from onnx_attribution.graph_tools.walk.differentiate import Choose, Move, unstretched
from onnx_attribution.graph_tools.walk.halves import Pair, Parts, signs, some

Where = Literal["everywhere", "dense"]


def move_of(
    view: NodeView, rules: RuleTable, parts: Parts, origins: dict[str, str], choose: Choose, where: Where
) -> Move | None:
    """Notes the parts of a node's outputs, and returns what carries multipliers back through it."""
    rule = rules.get((view.domain, view.operator))
    if rule is None:
        return None
    node = _Node(parts, view, rule)
    kind, kinds, moved, plain = (
        view.operator,
        rule.kinds,
        node.moved,
        view.domain == "" and len(view.outputs) >= 1,
    )
    passed = (*(view.input(k) for k in moved), *view.outputs)
    floats = all(z is None or is_float(node.tensor(z)) for z in passed)
    origin = next((origins[o] for k in moved if (o := _origin_name(view.input(k))) in origins), "")
    masked = any(x is not None and may_be_huge(x, parts.huge) for x in view.inputs)
    if masked and not kinds & {"carries", "swaps"}:
        return node.by_secant(choose)
    if plain and floats and "weighted" in kinds and moved in ([0], [1]):
        origins[node.name] = kind
        return node.weighted(moved[0])
    if plain and floats and "scales" in kinds and moved in ([0], [1]) and rule.is_linear_in(view, moved):
        origins[node.name] = origin or kind
        return node.scaled(moved[0])
    if plain and floats and "swaps" in kinds:
        origins[node.name] = origin or kind
        return node.subtracted()
    if plain and floats and "carries" in kinds and rule.is_linear_in(view, moved):
        for z in view.outputs:
            if z is not None:
                origins[node.own(z)] = origin or kind
        return node.carried()
    if "activation" in kinds and moved == [0] and floats:
        fed = bool(origin) and (where == "everywhere" or "dense" in rules["", origin].kinds)
        return node.revealed() if fed else node.rescaled(choose)
    return node.by_secant(choose)


def _origin_name(value: Value) -> str:
    """The name of a tensor, or of what was cast to it."""
    maker = value.inputs[0] if isinstance(value, gs.Variable) and value.inputs else None
    if maker is not None and maker.op == "Cast" and maker.name.startswith("grad/"):
        return str(maker.inputs[0].name)
    return str(value.name)


@dataclass(frozen=True)
class _Node:
    """One node with what its inputs change by."""

    parts: Parts
    view: NodeView
    rule: Rule

    @property
    def op(self) -> Emitter:
        return self.parts.op

    @property
    def moved(self) -> list[int]:
        """The inputs that depend on the source."""
        return [k for k, active in enumerate(self.view.active) if active]

    @property
    def name(self) -> str:
        return self.own(self.view.z)

    def own(self, value: Value) -> str:
        """The name of a tensor in the network."""
        return _origin_name(value)

    def tensor(self, value: Value) -> Value:
        """A tensor of the network, before any cast."""
        maker = value.inputs[0] if isinstance(value, gs.Variable) and value.inputs else None
        if maker is not None and self.own(value) != value.name:
            return maker.inputs[0]
        return value

    def note(self, value: Value, positive: Value, negative: Value) -> None:
        """Says which parts the change of an output has."""
        self.parts.found[self.own(value)] = (shaped(positive, value), shaped(negative, value))

    def input_parts(self, index: int) -> Pair:
        return self.parts.of(self.tensor(self.view.input(index)))

    def back(self, g: Sequence[Value | None], **inputs: Value) -> Sequence[Value | None]:
        """The gradient rule, with some inputs replaced."""
        given = tuple(inputs.get(f"x{k}", x) for k, x in enumerate(self.view.inputs))
        results = self.rule.vjp(self.op, replace(self.view, inputs=given), *g)
        return unstretched(self.op, self.view, self.rule, results)

    # --- linear operators

    def weighted(self, index: int) -> Move:
        """A product with weights: w dx belongs to the part of its sign."""
        op, view = self.op, self.view
        x, w = self.tensor(view.input(index)), view.input(1 - index)
        rising, falling = self.parts.signed(x)
        up, down = signs(op, w)

        def product(dx: Value, weights: Value) -> Value:
            inputs: list[Value | None] = [dx, weights] if index == 0 else [weights, dx]
            return view.again(op, *inputs)

        positive = op("Add", product(rising, up), product(falling, down))
        self.note(view.z, positive, op("Add", product(rising, down), product(falling, up)))
        key = f"x{1 - index}"

        def move(pairs: Sequence[Pair | None]) -> Sequence[Pair | None]:
            assert pairs[0] is not None
            plus, minus = pairs[0]
            results: list[Pair | None] = [None] * len(view.inputs)
            if plus is minus:
                m = some(self.back([plus])[index])
            else:
                rise = op(
                    "Add", *(some(self.back([g], **{key: v})[index]) for g, v in ((plus, up), (minus, down)))
                )
                fall = op(
                    "Add", *(some(self.back([g], **{key: v})[index]) for g, v in ((plus, down), (minus, up)))
                )
                m = self._by_sign(x, rise, fall)
            results[index] = (m, m)
            return results

        return move

    def _by_sign(self, x: Value, rise: Value, fall: Value) -> Value:
        """`rise` where x rises, `fall` where it falls, the mean where it does neither."""
        op, d = self.op, self.parts.change(x)
        mean = op("Mul", op("Add", rise, fall), op.like(rise, 0.5))
        by_sign = op("Where", op("Greater", d, op.like(d, 0)), rise, fall)
        return shaped(op("Where", self.parts.flat(x), mean, by_sign), x)

    def scaled(self, index: int) -> Move:
        """A product with a number for each element: one below 0 swaps the parts."""
        op, view = self.op, self.view
        plus, minus = self.input_parts(index)
        ones = op("Expand", op.like(plus, 1), op.shape(view.z))
        ones.shape = view.z.shape
        only = replace(view, active=tuple(k == index for k in range(len(view.inputs))))
        factor = some(self.rule.vjp(op, only, ones)[index])
        factor.shape = view.z.shape
        up, down = signs(op, factor)

        def mixed(one: Value, other: Value) -> Value:
            return op("Add", op("Mul", up, one), op("Mul", down, other))

        self.note(view.z, mixed(plus, minus), mixed(minus, plus))

        def move(pairs: Sequence[Pair | None]) -> Sequence[Pair | None]:
            assert pairs[0] is not None
            g, h = pairs[0]
            results: list[Pair | None] = [None] * len(view.inputs)
            x = view.input(index)
            if g is h:
                m = unbroadcast(op, op("Mul", factor, g), x, view.z)
                results[index] = (m, m)
            else:
                results[index] = (
                    unbroadcast(op, mixed(g, h), x, view.z), unbroadcast(op, mixed(h, g), x, view.z)
                )  # fmt: skip
            return results

        return move

    def subtracted(self) -> Move:
        """x - y, or -y: the parts of y swap."""
        op, view = self.op, self.view
        falls = 0 if view.operator == "Neg" else 1
        ends: list[list[Value]] = [[], []]
        for k in self.moved:
            plus, minus = self.input_parts(k)
            pair = (op("Neg", minus), op("Neg", plus)) if k == falls else (plus, minus)
            for end, part in zip(ends, pair, strict=True):
                end.append(part)
        whole = [op("Expand", e[0], op.shape(view.z)) if len(e) == 1 else op("Add", *e) for e in ends]
        self.note(view.z, whole[0], whole[1])

        def move(pairs: Sequence[Pair | None]) -> Sequence[Pair | None]:
            assert pairs[0] is not None
            g, h = pairs[0]
            results: list[Pair | None] = [None] * len(view.inputs)
            for k in self.moved:
                pair = (op("Neg", h), op("Neg", g)) if k == falls else (g, h)
                results[k] = (
                    unbroadcast(op, pair[0], view.input(k), view.z), unbroadcast(op, pair[1], view.input(k), view.z)
                )  # fmt: skip
            return results

        return move

    def carried(self) -> Move:
        """Each part by itself."""
        op, view = self.op, self.view
        ends: list[Sequence[gs.Variable]] = []
        for side in (0, 1):
            inputs = [
                self.input_parts(k)[side] if k in self.moved else self._still(k, x)
                for k, x in enumerate(view.inputs)
            ]
            made = op.multi(view.operator, len(view.outputs), *inputs, **view.attributes)
            ends.append(made)
        for z, plus, minus in zip(view.outputs, *ends, strict=True):
            if z is not None:
                self.note(z, plus, minus)

        def move(pairs: Sequence[Pair | None]) -> Sequence[Pair | None]:
            plus = self.back([p and p[0] for p in pairs])
            if all(p is None or p[0] is p[1] for p in pairs):
                return [m and (m, m) for m in plus]
            minus = self.back([p and p[1] for p in pairs])
            return [m and n and (m, n) for m, n in zip(plus, minus, strict=True)]

        return move

    def _still(self, index: int, x: Value | None) -> Value | None:
        """What an input that does not move adds to a change: nothing, or it says how the others move."""
        if x is None or (self.view.operator == "Pad" and index == 2):
            return None
        return self.op.zeros_like(x) if self.view.operator in ("Add", "Sum", "Mean", "Concat") else x

    # --- the rest

    def revealed(self) -> Move:
        """The Shapley value of the two parts, each over the part."""
        op, view = self.op, self.view
        x, z, w = view.input(0), view.z, self._there(view.z)
        y = self._there(x)
        plus, minus = self.input_parts(0)
        at_plus, at_minus = (self._again(op("Add", y, part)) for part in (plus, minus))

        def share(alone: Value, other: Value) -> Value:
            total = op("Add", op("Sub", alone, w), op("Sub", z, other))
            return op("Mul", total, op.like(total, 0.5))

        up, down = share(at_plus, at_minus), share(at_minus, at_plus)
        self.note(z, up, down)
        local = self._local(x, y)
        ratios = [self._over(change, part, y, local) for change, part in ((up, plus), (down, minus))]

        def move(pairs: Sequence[Pair | None]) -> Sequence[Pair | None]:
            assert pairs[0] is not None
            m = [op("Mul", g, ratio) for g, ratio in zip(pairs[0], ratios, strict=True)]
            return [(m[0], m[1]), *[None] * (len(view.inputs) - 1)]

        return move

    def _there(self, value: Value) -> Value:
        """A tensor at x', as wide as at x."""
        return self.op.cast(self.parts.references[self.own(value)], value.dtype)

    def _again(self, x: Value) -> Value:
        made = self.view.again(self.op, x, *self.view.inputs[1:])
        return shaped(made, self.view.z)

    def _over(self, change: Value, part: Value, y: Value, local: Value) -> Value:
        floor = 0 if "piecewise_linear" in self.rule.kinds else 1
        return quotient(
            self.op, change, part, near(self.op, self.op("Add", y, part), y, part, floor=floor), local
        )

    def _local(self, x: Value, y: Value) -> Value:
        """The mean of the derivatives at x and at x', for a part that is 0."""
        op, ends = self.op, []
        for at, z in ((x, self.view.z), (y, self._there(self.view.z))):
            one = op("Expand", op.like(at, 1), op.shape(self.view.z))
            one.shape = self.view.z.shape
            inputs = (at, *self.view.inputs[1:])
            ends.append(some(self.rule.vjp(op, replace(self.view, inputs=inputs, outputs=(z,)), one)[0]))
        return op("Mul", op("Add", *ends), op.like(ends[0], 0.5))

    def rescaled(self, choose: Choose) -> Move:
        """One slope for both parts."""
        op, view = self.op, self.view
        one = op("Expand", op.like(view.z, 1), op.shape(view.z))
        one.shape = view.z.shape
        slope = some(self._secant(choose, [one])[0])
        plus, minus = self.input_parts(0)
        self.note(view.z, op("Mul", slope, plus), op("Mul", slope, minus))

        def move(pairs: Sequence[Pair | None]) -> Sequence[Pair | None]:
            assert pairs[0] is not None
            m = op("Mul", slope, pairs[0][0])
            n = m if pairs[0][0] is pairs[0][1] else op("Mul", slope, pairs[0][1])
            return [(m, n), *[None] * (len(view.inputs) - 1)]

        return move

    def by_secant(self, choose: Choose) -> Move:
        """One multiplier, of the part that each element's change is."""

        def move(pairs: Sequence[Pair | None]) -> Sequence[Pair | None]:
            g = [self._one(p, z) for p, z in zip(pairs, self.view.outputs, strict=True)]
            results = unstretched(self.op, self.view, self.rule, self._secant(choose, g))
            return [m and (m, m) for m in results]

        return move

    def _one(self, pair: Pair | None, z: Value | None) -> Value | None:
        if pair is None or z is None:
            return None
        return pair[0] if pair[0] is pair[1] else self._by_sign(self.tensor(z), *pair)

    def _secant(self, choose: Choose, g: Sequence[Value | None]) -> Sequence[Value | None]:
        """The secant rule, which knows tensors by their names in the network."""
        view = self.view
        named = replace(
            view,
            inputs=tuple(x and self.tensor(x) for x in view.inputs),
            outputs=tuple(z and self.tensor(z) for z in view.outputs),
        )
        return choose(named, self.rule)(self.op, view, *g)

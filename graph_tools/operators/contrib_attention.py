"""onnxruntime's attention operators (com.microsoft) by MatMul and Softmax. Letters: B samples, S queries, T keys,
N heads, D size of a head.

Masks are added to the scores as 0 or a large negative number, as the kernels do it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.operators.contrib import biased, refuse
from onnx_attribution.graph_tools.operators.decompose import composite
from onnx_attribution.graph_tools.operators.registry import NodeView
from onnx_attribution.graph_tools.operators.transpose import rank_of

MASKED = -10000.0
LOWEST = float(np.finfo(np.float32).min) / 4


def _heads(op: Emitter, value: Value, heads: int) -> Value:
    """`[B, S, N * D]` as `[B, N, S, D]`."""
    return op("Transpose", op("Reshape", value, op.ints([0, 0, heads, -1])), perm=[0, 2, 1, 3])


def _merged(op: Emitter, value: Value) -> Value:
    """`[B, N, S, D]` as `[B, S, N * D]`."""
    return op("Reshape", op("Transpose", value, perm=[0, 2, 1, 3]), op.ints([0, 0, -1]))


def _range(op: Emitter, size: Value, shape: Sequence[int]) -> Value:
    """0, 1, ... size - 1 along the axis that is -1 in `shape`."""
    one = op("Squeeze", size, op.ints([0]))
    return op("Reshape", op("Range", op.constant(np.int64(0)), one, op.constant(np.int64(1))), op.ints(shape))


def _where(op: Emitter, keep: Value, amount: float) -> Value:
    """0 where `keep`, else `amount`."""
    return op("Where", keep, op.constant(np.float32(0)), op.constant(np.float32(amount)))


def attend(
    op: Emitter,
    q: Value,
    k: Value,
    v: Value,
    *,
    scale: float,
    added: Sequence[Value | None],
    softcap: float = 0.0,
    sink: Value | None = None,
) -> tuple[Value, Value, Value]:
    """softmax(scale q k^T + added) v on `[B, N, S, D]`, what the softmax is of, and the softmax.

    `sink` is one more score of each query, of a key that has no value.
    """
    turned = op("Transpose", k, perm=[0, 1, 3, 2])
    scores = op("MatMul", q, turned)
    scores = op("Mul", scores, op.like(scores, scale))
    if softcap:
        scores = op(
            "Mul", op("Tanh", op("Mul", scores, op.like(scores, 1 / softcap))), op.like(scores, softcap)
        )
    scores = biased(op, scores, *added)
    if sink is None:
        weights = op("Softmax", scores, axis=-1)
    else:
        first = op("Slice", scores, op.ints([0]), op.ints([1]), op.ints([-1]))
        column = op("Expand", sink, op("Shape", first))
        weights = op("Softmax", op("Concat", scores, column, axis=-1), axis=-1)
        weights = op("Slice", weights, op.ints([0]), op.ints([-1]), op.ints([-1]))
    return op("MatMul", weights, v), scores, weights


def _padding(op: Emitter, mask: Value, batch: Value, total: Value, amount: float) -> Value:
    """What a mask of keys adds, `[B, 1, S or 1, T]`: ones where keys count, or where they end, `[B]`,
    with where they start, `[2 * B]`, or with offsets that no score depends on, `[3 * B + 2]`.
    """
    rank = rank_of(mask)
    if rank == 4:
        raise NotDifferentiable(
            f"a mask of four axes ({mask.name!r}) is not supported",
            reason=Reason.FORM_WITHOUT_RULE,
            tensor=mask.name,
        )
    mask = op.cast(mask, np.int64)
    if rank == 3:
        return _where(op, op("Greater", op("Unsqueeze", mask, op.ints([1])), op.ints([0])), amount)
    if rank == 2:
        return _where(op, op("Greater", op("Unsqueeze", mask, op.ints([1, 2])), op.ints([0])), amount)
    places = _range(op, total, [1, -1])
    padded = op("Concat", mask, op("Expand", op.ints([0]), batch), axis=0)
    bounds = op("Slice", padded, op.ints([0]), op("Mul", batch, op.ints([2])), op.ints([0]))
    bounds = op("Reshape", bounds, op("Concat", op.ints([2]), batch, op.ints([1]), axis=0))
    ends, starts = (op("Gather", bounds, op.constant(np.int64(part)), axis=0) for part in range(2))
    paired = op("Equal", op("Shape", mask), op("Mul", batch, op.ints([2])))
    early = op("And", op("Less", places, starts), paired)
    keep = op("And", op("Less", places, ends), op("Not", early))
    return _where(op, op("Unsqueeze", keep, op.ints([1, 2])), amount)


def _causal(op: Emitter, queries: Value, total: Value, amount: float) -> Value:
    """What hides the keys behind each query, `[1, 1, S, T]`; the last query sees all keys."""
    first = op("Sub", total, queries)
    at = op("Add", _range(op, queries, [1, 1, -1, 1]), first)
    return _where(op, op("LessOrEqual", _range(op, total, [1, 1, 1, -1]), at), amount)


@composite("Attention")
def attention(op: Emitter, node: NodeView) -> list[Value | None]:
    """Inputs: x, weights, bias, mask, past, what is added to the scores. Outputs: result, present keys and values."""
    heads, sizes = node.attribute("num_heads"), node.attribute("qkv_hidden_sizes")
    refuse(node, rotary=node.attribute("do_rotary", 0), shared=node.optional(6))
    x = node.input(0)
    projected = biased(op, op("MatMul", x, node.input(1)), node.optional(2))
    if sizes:
        q, k, v = op.multi("Split", 3, projected, op.ints(sizes), axis=2)
    else:
        q, k, v = op.multi("Split", 3, projected, axis=2, num_outputs=3)
    q, k, v = (_heads(op, part, heads) for part in (q, k, v))
    if (past := node.optional(4)) is not None:
        k = op("Concat", op("Gather", past, op.constant(np.int64(0)), axis=0), k, axis=2)
        v = op("Concat", op("Gather", past, op.constant(np.int64(1)), axis=0), v, axis=2)
    made, _, _ = attend(op, q, k, v, scale=_scale(node, sizes), added=_added(op, node, q, k, 3, 5))
    return [
        _merged(op, made),
        op("Concat", op("Unsqueeze", k, op.ints([0])), op("Unsqueeze", v, op.ints([0])), axis=0),
    ]


def _scale(node: NodeView, sizes: Sequence[int] | None) -> float:
    """1 / sqrt(D) where the node says nothing."""
    if scale := node.attribute("scale", 0.0):
        return float(scale)
    hidden = sizes[0] if sizes else (shape_of(node.input(1)) or (0, 0))[1]
    if not isinstance(hidden, int):
        raise NotDifferentiable(
            f"the size of a head of {node.operator} (node {node.name!r}) is unknown",
            reason=Reason.UNKNOWN_RANK,
        )
    return 1 / math.sqrt(hidden / (1 if sizes else 3) / node.attribute("num_heads"))


def _added(op: Emitter, node: NodeView, q: Value, k: Value, mask: int, bias: int) -> list[Value | None]:
    """Everything that is added to the scores: mask of the keys, causality, bias."""
    amount = node.attribute("mask_filter_value", MASKED)
    queries, total = op("Shape", q, start=2, end=3), op("Shape", k, start=2, end=3)
    found: list[Value | None] = [node.optional(bias)]
    if (given := node.optional(mask)) is not None:
        found.append(_padding(op, given, op("Shape", q, start=0, end=1), total, amount))
    if node.attribute("unidirectional", 0):
        found.append(_causal(op, queries, total, LOWEST))
    return found


@composite("MultiHeadAttention")
def multi_head_attention(op: Emitter, node: NodeView) -> list[Value | None]:
    """Inputs: q, k, v (or packed), bias, mask, what is added to the scores, past keys, past values, their length.

    Outputs: result, present keys, present values, scores.
    """
    refuse(node, beams=node.optional(9))
    heads, query, key = node.attribute("num_heads"), node.input(0), node.optional(1)
    if rank_of(query) == 5:  # [B, S, N, 3, D]
        q, k, v = (_unpacked(op, query, part) for part in range(3))
    elif key is not None and rank_of(key) == 5:  # [B, T, N, 2, D]
        q, (k, v) = _heads(op, query, heads), (_unpacked(op, key, part) for part in range(2))
    else:
        q = _heads(op, query, heads)
        k, v = (_as_heads(op, node.input(at), heads) for at in (1, 2))
    if (bias := node.optional(3)) is not None:
        q, k, v = _with_bias(op, node, bias, q, k, v)
    present: Sequence[Value] = ()
    past, length = (node.optional(6), node.optional(7)), node.optional(8)
    if past[0] is not None and past[1] is not None:
        (k, v), present = zip(
            *(_joined(op, *pair, length) for pair in zip(past, (k, v), strict=True)), strict=True
        )
    scale = node.attribute("scale", 0.0) or 1 / math.sqrt(_head_size(node))
    made, scores, _ = attend(op, q, k, v, scale=scale, added=_added(op, node, q, k, 4, 5))
    return [_merged(op, made), *(op("Identity", part) for part in (*(present or (k, v)), scores))]


def _joined(op: Emitter, past: Value, new: Value, length: Value | None) -> tuple[Value, Value]:
    """The keys or values that count, and all that is kept: of the past, a buffer has `length` at its start."""
    if length is None:
        both = op("Concat", past, new, axis=2)
        return both, both
    start = op.cast(op("Reshape", length, op.ints([1])), np.int64)
    both = op("Concat", op("Slice", past, op.ints([0]), start, op.ints([2])), new, axis=2)
    end = op("Add", start, op("Shape", new, start=2, end=3))
    return both, op("Concat", both, op("Slice", past, end, op.ints([2**31]), op.ints([2])), axis=2)


def _head_size(node: NodeView) -> int:
    shape = shape_of(node.input(0)) or ()
    size = shape[-1]
    if not isinstance(size, int):
        raise NotDifferentiable(
            f"the size of a head of {node.operator} (node {node.name!r}) is unknown",
            reason=Reason.UNKNOWN_RANK, node=node.name, operator=node.operator, tensor=node.input(0).name,
        )  # fmt: skip
    return size if len(shape) == 5 else size // int(node.attribute("num_heads"))


def _unpacked(op: Emitter, packed: Value, part: int) -> Value:
    """Part of `[B, S, N, parts, D]` as `[B, N, S, D]`."""
    return op("Transpose", op("Gather", packed, op.constant(np.int64(part)), axis=3), perm=[0, 2, 1, 3])


def _as_heads(op: Emitter, value: Value, heads: int) -> Value:
    return value if rank_of(value) == 4 else _heads(op, value, heads)


def _with_bias(op: Emitter, node: NodeView, bias: Value, *parts: Value) -> list[Value]:
    """q, k and v with their parts of the bias; keys that are given as `[B, N, T, D]` have none."""
    size, heads = _head_size(node), int(node.attribute("num_heads"))
    width = size * heads
    starts = [0, width, 2 * width]
    made = []
    for at, (part, start) in enumerate(zip(parts, starts, strict=True)):
        source = node.optional(at)
        if source is not None and rank_of(source) == 4:
            made.append(part)
            continue
        end = start + width if at < 2 else 2**31
        piece = op("Slice", bias, op.ints([start]), op.ints([end]), op.ints([0]))
        made.append(op("Add", part, op("Reshape", piece, op.ints([1, heads, 1, -1]))))
    return made


# --- rotary positions and grouped queries


def rotated(
    op: Emitter, x: Value, places: Value, cos: Value, sin: Value, *, interleaved: bool, size: int = 0
) -> Value:
    """x `[B, N, S, D]` turned by the angles of `places` `[B or 1, S]`, in its first `size` elements or all."""
    rest = None
    if size:
        far = op.ints([2**31])
        rest = op("Slice", x, op.ints([size]), far, op.ints([3]))
        x = op("Slice", x, op.ints([0]), op.ints([size]), op.ints([3]))
    angles = [op("Unsqueeze", op("Gather", table, places, axis=0), op.ints([1])) for table in (cos, sin)]
    c, s = angles
    if interleaved:
        pairs = op("Reshape", x, op.ints([0, 0, 0, -1, 2]))
        first = op("Gather", pairs, op.constant(np.int64(0)), axis=4)
        second = op("Gather", pairs, op.constant(np.int64(1)), axis=4)
    else:
        first, second = op.multi("Split", 2, x, axis=3, num_outputs=2)
    left = op("Sub", op("Mul", first, c), op("Mul", second, s))
    right = op("Add", op("Mul", first, s), op("Mul", second, c))
    if interleaved:
        both = op("Concat", op("Unsqueeze", left, op.ints([4])), op("Unsqueeze", right, op.ints([4])), axis=4)
        made = op("Reshape", both, op.ints([0, 0, 0, -1]))
    else:
        made = op("Concat", left, right, axis=3)
    return made if rest is None else op("Concat", made, rest, axis=3)


@composite("RotaryEmbedding")
def rotary_embedding(op: Emitter, node: NodeView) -> Value:
    x, places, cos, sin = (node.input(k) for k in range(4))
    size, heads = node.attribute("rotary_embedding_dim", 0), node.attribute("num_heads", 0)
    flat = rank_of(x) == 3
    if flat and not heads:
        half = (shape_of(cos) or (0, 0))[1]
        wide = op("Reshape", x, op.ints([0, 0, -1, size or 2 * int(half)]))
        turned = op("Transpose", wide, perm=[0, 2, 1, 3])
    else:
        turned = _heads(op, x, heads) if flat else x
    if rank_of(places) == 1 or shape_of(places) == (1,):  # where the first one lies
        places = op(
            "Unsqueeze",
            op("Add", _range(op, op("Shape", turned, start=2, end=3), [-1]), places),
            op.ints([0]),
        )
    made = rotated(
        op, turned, places, cos, sin, interleaved=bool(node.attribute("interleaved", 0)), size=size
    )
    return _merged(op, made) if flat else made


@composite("GroupQueryAttention")
def group_query_attention(op: Emitter, node: NodeView) -> list[Value | None]:
    """Inputs: q (or all packed), k, v, past keys, past values, lengths - 1 `[B]`, the longest, tables of angles,
    positions, what is added to the scores, a score a head of a key without value.

    Outputs: result, present keys, present values, scores or weights.
    """
    heads, groups = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    refuse(
        node,
        sliding_window_cache=node.attribute("sliding_window_cache", 0),
        quantised_keys=node.attribute("k_quant_type", "NONE") not in ("NONE", b"NONE"),
        quantised_values=node.attribute("v_quant_type", "NONE") not in ("NONE", b"NONE"),
        normalised_queries=node.optional(14) or node.optional(15),
    )
    q, k, v = _grouped(op, node, heads, groups)
    last = op("Reshape", op.cast(node.input(5), np.int64), op.ints([-1, 1, 1, 1]))
    queries = op("Shape", q, start=2, end=3)
    longest = op.cast(op("Reshape", node.input(6), op.ints([1])), np.int64)
    before = op("Sub", op("Add", last, op.ints([1])), queries)  # how many keys of the past count
    before = op("Where", op("Equal", longest, queries), op.ints([0]), before)
    at = op("Add", before, _range(op, queries, [1, 1, -1, 1]))  # [B, 1, S, 1]
    if node.attribute("do_rotary", 0):
        places = node.optional(9)
        if places is None:
            places = op("Reshape", at, op("Concat", op.ints([-1]), queries, axis=0))
        interleaved = bool(node.attribute("rotary_interleaved", 0))
        size = _rotary_size(node)
        q, k = (
            rotated(op, part, places, node.input(7), node.input(8), interleaved=interleaved, size=size)
            for part in (q, k)
        )
    if node.optional(3) is not None:
        k, v = (_written(op, node.input(old), new, before, longest) for old, new in ((3, k), (4, v)))
    keys = _range(op, op("Shape", k, start=2, end=3), [1, 1, 1, -1])
    keep = op("LessOrEqual", keys, last)  # behind the last lies what pads a shorter sample
    if node.attribute("causal", 1):
        keep = op("And", keep, op("LessOrEqual", keys, at))
    if (window := node.attribute("local_window_size", -1)) > 0:
        keep = op("And", keep, op("Greater", keys, op("Sub", at, op.ints([window]))))
    made, scores, weights = attend(
        op,
        q,
        *(_repeated(op, part, heads // groups) for part in (k, v)),
        scale=node.attribute("scale", 0.0) or 1 / math.sqrt(_group_head_size(node, heads, groups)),
        added=[node.optional(10), _where(op, keep, LOWEST)],
        softcap=node.attribute("softcap", 0.0),
        sink=_sink(op, node),
    )
    shown = {1: op("Where", keep, scores, op.like(scores, 0)), 2: weights}.get(node.attribute("qk_output", 0))
    return [_merged(op, made), op("Identity", k), op("Identity", v), shown]


def _repeated(op: Emitter, value: Value, times: int) -> Value:
    """Each head of `[B, groups, T, D]` as often as queries share it: `[B, N, T, D]`."""
    wide = op("Expand", op("Unsqueeze", value, op.ints([2])), op.ints([1, 1, times, 1, 1]))
    sizes = op("Concat", op.ints([0, -1]), op("Shape", value, start=2), axis=0)
    return op("Reshape", wide, sizes)


def _sink(op: Emitter, node: NodeView) -> Value | None:
    """The score of a key without value, one a head."""
    if (given := node.optional(11)) is not None:
        return op("Reshape", given, op.ints([-1, 1, 1]))
    return op.constant(np.float32(0)) if node.attribute("smooth_softmax", 0) > 0 else None


def _written(op: Emitter, old: Value, new: Value, before: Value, longest: Value) -> Value:
    """`before` `[B, 1, 1, 1]` of the old ones, then the new ones, then zeros, over T = the longest or the old."""
    size = op("Shape", old, start=2, end=3)
    places = _range(op, op("Max", size, longest), [1, 1, -1, 1])
    behind = op("GreaterOrEqual", places, op("Add", before, op("Shape", new, start=2, end=3)))
    source = op("Where", op("Less", places, before), places, op("Add", op("Sub", places, before), size))
    source = op("Where", behind, op.ints([0]), source)
    shape = op("Concat", op("Shape", old, end=2), op.ints([1]), op("Shape", old, start=3), axis=0)
    both = op("Concat", old, new, axis=2)
    made = op("GatherElements", both, op("Expand", source, shape), axis=2)
    return op("Where", behind, op.like(made, 0), made)


def _grouped(op: Emitter, node: NodeView, heads: int, groups: int) -> tuple[Value, Value, Value]:
    """q `[B, N, S, D]`, k and v `[B, groups, S, D]`."""
    if node.optional(1) is not None:
        parts = [(node.input(0), heads), (node.input(1), groups), (node.input(2), groups)]
        q, k, v = (_heads(op, part, count) for part, count in parts)
        return q, k, v
    size = _group_head_size(node, heads, groups)
    sizes = op.ints([heads * size, groups * size, groups * size])
    q, k, v = op.multi("Split", 3, node.input(0), sizes, axis=2)
    return _heads(op, q, heads), _heads(op, k, groups), _heads(op, v, groups)


def _group_head_size(node: NodeView, heads: int, groups: int) -> int:
    size = (shape_of(node.input(0)) or ("?",))[-1]
    if not isinstance(size, int):
        raise NotDifferentiable(
            f"the size of a head of {node.operator} (node {node.name!r}) is unknown",
            reason=Reason.UNKNOWN_RANK,
        )
    return size // (heads if node.optional(1) is not None else heads + 2 * groups)


def _rotary_size(node: NodeView) -> int:
    """How many elements of a head are turned; 0 for all."""
    half = (shape_of(node.input(7)) or ("?", "?"))[1]
    heads, groups = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    return 0 if not isinstance(half, int) or 2 * half == _group_head_size(node, heads, groups) else 2 * half

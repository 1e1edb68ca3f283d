"""onnxruntime's attention operators (com.microsoft) by MatMul and Softmax. Letters: B samples, S queries, T keys,
N heads, D size of a head.

Masks are added to the scores as 0 or a large negative number, as the kernels do it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.rules.composite import composite
from onnx_attribution.graph_tools.rules.contrib import biased
from onnx_attribution.graph_tools.rules.registry import NodeView
from onnx_attribution.graph_tools.rules.tricks import rank_of

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
    rank: int = 4,
) -> Value:
    """softmax(scale q k^T + added) v on `[..., S, D]` of that rank."""
    turned = op("Transpose", k, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = op("MatMul", q, turned)
    scores = op("Mul", scores, op.like(scores, scale))
    if softcap:
        scores = op(
            "Mul", op("Tanh", op("Mul", scores, op.like(scores, 1 / softcap))), op.like(scores, softcap)
        )
    return op("MatMul", op("Softmax", biased(op, scores, *added), axis=-1), v)


def _padding(op: Emitter, mask: Value, batch: Value, total: Value, amount: float) -> Value:
    """What a mask of keys adds, `[B, 1, S or 1, T]`: ones where keys count, or lengths, or lengths and starts."""
    rank = rank_of(mask)
    if rank == 4:
        raise NotDifferentiable(f"a mask of four axes ({mask.name!r}) is not supported", tensor=mask.name)
    mask = op.cast(mask, np.int64)
    if rank == 3:
        return _where(op, op("Greater", op("Unsqueeze", mask, op.ints([1])), op.ints([0])), amount)
    if rank == 2:
        return _where(op, op("Greater", op("Unsqueeze", mask, op.ints([1, 2])), op.ints([0])), amount)
    places = _range(op, total, [1, -1])
    parts = op("Reshape", mask, op("Concat", op.ints([-1]), batch, op.ints([1]), axis=0))  # ends, starts
    keep = op("Less", places, op("Gather", parts, op.constant(np.int64(0)), axis=0))
    starts = op("Slice", parts, op.ints([1]), op.ints([2]), op.ints([0]))
    early = op("Cast", op("Less", places, starts), to=6)  # [0 or 1, B, T]
    early.dtype = np.dtype(np.int32)
    count = op("ReduceSum", early, op.ints([0]), keepdims=0)
    count.dtype = np.dtype(np.int32)
    keep = op("And", keep, op("Equal", count, op.constant(np.int32(0))))
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
    if node.attribute("do_rotary", 0):
        raise NotDifferentiable(
            f"Attention with do_rotary (node {node.name!r}) is not supported", node=node.name
        )
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
    return [
        _merged(
            op, attend(op, q, k, v, scale=_scale(node, op, q, sizes), added=_added(op, node, q, k, 3, 5))
        ),
        op("Concat", op("Unsqueeze", k, op.ints([0])), op("Unsqueeze", v, op.ints([0])), axis=0),
    ]


def _scale(node: NodeView, op: Emitter, q: Value, sizes: Sequence[int] | None) -> float:
    """1 / sqrt(D) where the node says nothing."""
    if scale := node.attribute("scale", 0.0):
        return float(scale)
    hidden = sizes[0] if sizes else (shape_of(node.input(1)) or (0, 0))[1]
    if not isinstance(hidden, int):
        raise NotDifferentiable(f"the size of a head of {node.operator} (node {node.name!r}) is unknown")
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
    """Inputs: q, k, v (or packed), bias, mask, what is added to the scores, past keys, past values."""
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
    past = node.optional(6), node.optional(7)
    if past[0] is not None and past[1] is not None:
        k, v = op("Concat", past[0], k, axis=2), op("Concat", past[1], v, axis=2)
    scale = node.attribute("scale", 0.0) or 1 / math.sqrt(_head_size(node))
    made = attend(op, q, k, v, scale=scale, added=_added(op, node, q, k, 4, 5))
    return [_merged(op, made), op("Identity", k), op("Identity", v)]


def _head_size(node: NodeView) -> int:
    shape = shape_of(node.input(0)) or ()
    size = shape[-1]
    if not isinstance(size, int):
        raise NotDifferentiable(
            f"the size of a head of {node.operator} (node {node.name!r}) is unknown",
            node=node.name, operator=node.operator, tensor=node.input(0).name,
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
    """Inputs: q (or all packed), k, v, past keys, past values, lengths - 1 `[B]`, the longest, tables of angles."""
    heads, groups = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    if (
        node.optional(10) is not None
        or node.optional(11) is not None
        or node.attribute("smooth_softmax", 0) > 0
    ):
        raise NotDifferentiable(
            f"GroupQueryAttention (node {node.name!r}) with a bias or sinks is not supported",
            node=node.name, operator=node.operator, tensor=node.z.name,
        )  # fmt: skip
    q, k, v = _grouped(op, node, heads, groups)
    last = op("Reshape", op.cast(node.input(5), np.int64), op.ints([-1, 1, 1, 1]))
    queries = op("Shape", q, start=2, end=3)
    steps = _range(op, queries, [1, 1, -1, 1])
    longest = op.cast(op("Reshape", node.input(6), op.ints([1])), np.int64)
    before = op("Sub", op("Add", last, op.ints([1])), queries)  # how many keys of the past count
    before = op("Where", op("Equal", longest, queries), op.ints([0]), before)
    at = op("Add", before, steps)  # [B, 1, S, 1]
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
    own = op("Transpose", at, perm=[0, 1, 3, 2])  # where the new keys lie: [B, 1, 1, S]
    if node.optional(3) is not None:
        old = op("Shape", node.input(3), start=2, end=3)
        there = op("Add", _range(op, old, [1, 1, 1, -1]), op("Mul", before, op.ints([0])))
        there = op("Where", op("Less", there, before), there, op.ints([2**40]))
        own = op("Concat", there, own, axis=3)
        k, v = op("Concat", node.input(3), k, axis=2), op("Concat", node.input(4), v, axis=2)
    keep = op("LessOrEqual", own, at)
    if (window := node.attribute("local_window_size", -1)) > 0:
        keep = op("And", keep, op("Greater", own, op("Sub", at, op.ints([window]))))
    hidden = op("Unsqueeze", _where(op, keep, LOWEST), op.ints([2]))
    made = attend(
        op,
        op(
            "Reshape", q, op("Concat", op.ints([0, groups, heads // groups]), op("Shape", q, start=2), axis=0)
        ),
        op("Unsqueeze", k, op.ints([2])),
        op("Unsqueeze", v, op.ints([2])),
        scale=node.attribute("scale", 0.0) or 1 / math.sqrt(_group_head_size(node, heads, groups)),
        added=[hidden],
        softcap=node.attribute("softcap", 0.0),
        rank=5,
    )
    made = op("Reshape", made, op("Concat", op.ints([0, heads]), op("Shape", made, start=3), axis=0))
    return [_merged(op, made), op("Identity", k), op("Identity", v)]


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
        raise NotDifferentiable(f"the size of a head of {node.operator} (node {node.name!r}) is unknown")
    return size // (heads if node.optional(1) is not None else heads + 2 * groups)


def _rotary_size(node: NodeView) -> int:
    """How many elements of a head are turned; 0 for all."""
    half = (shape_of(node.input(7)) or ("?", "?"))[1]
    heads, groups = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    return 0 if not isinstance(half, int) or 2 * half == _group_head_size(node, heads, groups) else 2 * half

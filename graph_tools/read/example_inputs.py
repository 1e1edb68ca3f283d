"""Random inputs that a model accepts: what proofs and checks are run on."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.runner import Runner
from onnx_attribution.graph_tools.ir.shapes import Dims, dims_of, growths
from onnx_attribution.graph_tools.ir.weights import value_of
from onnx_attribution.values import Array

SIZES = (8, 1, 2, 4, 16, 32, 64, 128, 224, 256, 512, 1024, 4096, 16000)
"""What unknown sizes are tried with, after each other."""
SIDES = (
    24,
    32,
    40,
    48,
    64,
    80,
    94,
    96,
    100,
    112,
    128,
    160,
    192,
    224,
    256,
    288,
    299,
    320,
    384,
    416,
    480,
    512,
    640,
)
"""What two or three unknown sizes are tried with, where none of the others run."""
RANKS = (2, 4, 3, 1, 0, 5)
"""What an unknown rank is tried with."""
TOLD = 8  # sizes that are taken from constants
PRODUCTS = 600  # combinations of sides
HUGE = 1 << 23  # elements of inputs that are made up
LARGEST = 1 << 28  # elements of an input that the file declares
MAX_RANK = 64  # that of numpy
PATIENCE = 20.0  # seconds of search, once the likely sizes are tried


def example_inputs(
    model: onnx.ModelProto,
    run: Runner,
    *,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    given: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Random inputs, with a batch of 1, on which the model runs; sizes and ranks that are open are searched.

    Raises:
        ModelError: the model runs on none of them; the first error is told. Or an input is no tensor.
    """
    require_tensors(model)
    for value in model.graph.input:
        if value.name not in (given or {}):
            _require_small(value, (shapes or {}).get(value.name, dims_of(value)))
    failure: ModelError | None = None
    has_integers = any(x.type.tensor_type.elem_type not in FLOATS for x in model.graph.input)
    known, quiet = compared(model), switched_off(model)
    fixed = {**{name: array.shape for name, array in (given or {}).items()}, **(shapes or {})}
    for chosen, candidate, high in itertools.product(
        (known, {}) if known else ({},), _candidates(model, fixed), (90, 2, 1) if has_integers else (2,)
    ):
        inputs = random_inputs(model, candidate, np.random.default_rng(seed), high)
        for name, number in {**chosen, **quiet}.items():
            inputs[name] = np.full_like(inputs[name], number)
        inputs |= dict(given or {})
        try:
            run(model, dict(inputs), [o.name for o in model.graph.output])
        except ModelError as error:
            if error.reason == Reason.MODEL_INVALID:  # no session, whatever the sizes
                raise
            failure = failure or error
            continue
        return inputs
    if failure is None:
        raise ModelError(
            "no inputs were found on which the model could be tried: give an example, or input shapes"
        )
    raise failure


def examples(
    plain: onnx.ModelProto,
    run: Runner,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    given: Mapping[str, Array] | None = None,
    slow: float = math.inf,
) -> list[dict[str, Array]]:
    """One example, and unless its search takes `slow` seconds another one, of other sizes where the model runs on them.

    Raises:
        ModelError: the model runs on none.
    """
    begun = time.monotonic()
    first = example_inputs(plain, run, shapes=shapes, given=given)
    if time.monotonic() - begun > slow:
        return [first]
    sizes = {name: array.shape for name, array in first.items()}
    try:
        second = example_inputs(plain, run, seed=1, shapes=sizes, given=given)
    except ModelError:  # numbers that do not fit at these sizes
        second = first
    for larger, _ in growths(plain, second):
        with contextlib.suppress(ModelError):
            run(plain, larger, [o.name for o in plain.graph.output])
            return [first, larger]
    return [first, second]


def _require_small(value: onnx.ValueInfoProto, dims: Dims | None) -> None:
    """Refuses an input that is large before anything is known of it. Raises: ModelError."""
    least = math.prod(d for d in dims or () if isinstance(d, int) and d > 0)
    if least > LARGEST or len(dims or ()) > MAX_RANK:
        told = f"{least} elements, and with more than {LARGEST}"
        told = told if least > LARGEST else f"{len(dims or ())} axes, and with more than {MAX_RANK}"
        raise ModelError(
            f"the input {value.name!r} is declared with {told} no model can be tried; declare its sizes as names, or "
            "give an example",
            reason=Reason.MODEL_INVALID, input=value.name,
        )  # fmt: skip


def require_tensors(model: onnx.ModelProto) -> None:
    """Refuses inputs that are maps or sequences, with where a model of tensors would begin. Raises: ModelError."""
    for value in model.graph.input:
        if not value.type.HasField("tensor_type"):
            raise _no_tensor(model, value)


def _no_tensor(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> ModelError:
    kind = str(value.type.WhichOneof("value")).removesuffix("_type")
    reader = next((node for node in model.graph.node if value.name in node.input), None)
    hint = "" if reader is None else (
        f": take the part of the file behind {reader.op_type} (node {reader.name!r}) as the model, with the tensor "
        f"{reader.output[0]!r} as its input (onnx.utils.extract_model)"
    )  # fmt: skip
    return ModelError(
        f"input {value.name!r} is a {kind}, and only tensors can be given{hint}",
        reason=Reason.MODEL_INVALID, input=value.name,
    )  # fmt: skip


def compared(model: onnx.ModelProto) -> dict[str, int]:
    """By name, the integer inputs of one element that the file compares with a constant, and that constant.

    A sample rate, for instance, for which the file holds a branch.
    """
    integers = {
        x.name
        for x in model.graph.input
        if x.type.tensor_type.elem_type in (TensorProto.INT32, TensorProto.INT64)
        and all(d.dim_value == 1 for d in x.type.tensor_type.shape.dim)
    }
    constants = {t.name: t for t in model.graph.initializer}
    constants |= {
        node.output[0]: a.t for node in model.graph.node for a in node.attribute
        if node.op_type == "Constant" and a.name == "value"
    }  # fmt: skip
    found: dict[str, int] = {}
    for node in model.graph.node:
        for x, other in (node.input, node.input[::-1]) if node.op_type == "Equal" else ():
            if x in integers and other in constants and math.prod(constants[other].dims) == 1:
                found.setdefault(x, int(value_of(constants[other]).item()))
    return found


def random_inputs(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator, high: int
) -> dict[str, Array]:
    """Ones where the name says mask; else normal floats, integers below `high` (tokens; 0 and 1 are valid almost
    everywhere) and strings of one letter."""
    inputs: dict[str, Array] = {}
    for value in model.graph.input:
        shape, kind = shapes[value.name], value.type.tensor_type.elem_type
        if "mask" in value.name.lower() and kind != TensorProto.STRING:
            inputs[value.name] = np.ones(shape, dtype=helper.tensor_dtype_to_np_dtype(kind))
        elif kind == TensorProto.STRING:
            inputs[value.name] = np.full(shape, "a", dtype=object)
        elif kind in FLOATS:
            inputs[value.name] = rng.normal(size=shape).astype(helper.tensor_dtype_to_np_dtype(kind))
        else:
            inputs[value.name] = rng.integers(0, high, size=shape).astype(
                helper.tensor_dtype_to_np_dtype(kind)
            )
    return inputs


FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}


def _candidates(
    model: onnx.ModelProto, fixed: Mapping[str, tuple[int, ...]]
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes for all inputs; symbolic dimensions of one name have one size, the first axis is 1."""
    known = {value.name: fixed.get(value.name, dims_of(value)) for value in model.graph.input}
    open_ranks = [name for name, dims in known.items() if dims is None]
    for rank in RANKS if open_ranks else (0,):
        assumed = {name: tuple(f"{name}.{k}" for k in range(rank)) for name in open_ranks}
        yield from _sized(model, {name: assumed.get(name, dims) or () for name, dims in known.items()})


def _sized(model: onnx.ModelProto, dims: Mapping[str, Dims]) -> Iterator[dict[str, tuple[int, ...]]]:
    batch = {shape[0] for shape in dims.values() if shape and isinstance(shape[0], str)}
    free = sorted({d for shape in dims.values() for d in shape if isinstance(d, str)} - batch)
    grids = [dict.fromkeys(free, size) for size in SIZES] if free else [{}]
    if 1 < len(free) <= 3:
        grids += _products(free, (1, 4, 32, 64))
    if len(free) > 1:  # one length, where the others are 1 as the batch is
        grids += [{**dict.fromkeys(free, 1), one: size} for one in free for size in sorted(SIZES)]
    starts = [1, *SIZES] if not free else [1, 8]
    told = sizes_told(model) if free or batch else []
    likely: list[tuple[list[dict[str, int]], list[int]]] = [(grids, starts if batch else [1])]
    if told:
        likely.append(
            (_products(free, told) if len(free) <= 3 else [dict.fromkeys(free, n) for n in told], [1])
        )
        likely.append((grids[:1], told))
    if 1 < len(free) <= 3:
        likely.append((_products(free, SIDES)[:PRODUCTS], [1]))
    least = sum(math.prod(d for d in shape if isinstance(d, int)) for shape in dims.values())
    begun = time.monotonic()
    for k, (found, firsts) in enumerate(likely):
        for start in dict.fromkeys(firsts):
            for grid in found:
                if k and time.monotonic() - begun > PATIENCE:
                    return
                sizes = {**grid, **dict.fromkeys(batch, start)}
                chosen = {
                    name: tuple(sizes[d] if isinstance(d, str) else max(d or 0, 0) for d in shape)
                    for name, shape in dims.items()
                }
                if not (free or batch) or sum(map(math.prod, chosen.values())) <= max(HUGE, least):
                    yield chosen


def _products(names: Sequence[str], sizes: Sequence[int]) -> list[dict[str, int]]:
    """All combinations of the sizes, the smallest first."""
    found = sorted(itertools.product(sizes, repeat=len(names)), key=math.prod)
    return [dict(zip(names, chosen, strict=True)) for chosen in found]


def sizes_told(model: onnx.ModelProto) -> list[int]:
    """Sizes of the constants that meet the inputs first: what a matrix multiplies is as long as the matrix."""
    constants = {t.name: tuple(t.dims) for t in model.graph.initializer}
    constants |= {
        node.output[0]: tuple(a.t.dims) for node in model.graph.node for a in node.attribute
        if node.op_type == "Constant" and a.name == "value"
    }  # fmt: skip
    found: dict[int, None] = {}
    for node in model.graph.node:
        for x in node.input if node.op_type != "Constant" else ():
            found.update(dict.fromkeys(d for d in constants.get(x, ()) if 1 < d <= max(SIZES)))
        if len(found) >= TOLD:
            break
    return list(found)[:TOLD]


def switched_off(model: onnx.ModelProto) -> dict[str, bool]:
    """By name, the inputs that say whether to train: False, so that the file gives the same numbers each time."""
    inputs = {x.name for x in model.graph.input}
    return {
        node.input[2]: False
        for node in model.graph.node
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in inputs
    }

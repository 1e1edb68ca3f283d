"""Random inputs that a model accepts: what proofs and checks are run on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.load import Runner
from onnx_attribution.graph_tools.weights import value_of
from onnx_attribution.values import Array

SIZES = (8, 1, 2, 4, 16, 32, 64, 128, 224, 256, 512, 1024, 4096, 16000)
"""What unknown sizes are tried with, after each other."""


def example_inputs(
    model: onnx.ModelProto,
    run: Runner,
    *,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    given: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Random inputs, with a batch of 1, on which the model runs: sizes that the file leaves open are searched.

    Raises:
        ModelError: the model runs on none of them; the last error is told. Or an input is no tensor.
    """
    for value in model.graph.input:
        if not value.type.HasField("tensor_type"):
            raise _no_tensor(model, value)
    failure: ModelError | None = None
    has_integers = any(x.type.tensor_type.elem_type not in _FLOATS for x in model.graph.input)
    known = compared(model)
    for chosen, candidate, high in itertools.product(
        (known, {}) if known else ({},), _candidates(model, shapes or {}), (90, 2) if has_integers else (2,)
    ):
        inputs = random_inputs(model, candidate, np.random.default_rng(seed), high)
        inputs |= {name: np.full_like(inputs[name], value) for name, value in chosen.items()} | dict(
            given or {}
        )
        try:
            run(model, dict(inputs), [o.name for o in model.graph.output])
        except ModelError as error:
            failure = error
            continue
        return inputs
    assert failure is not None
    raise failure


def _no_tensor(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> ModelError:
    """The refusal of an input that is a map or a sequence, with where a model of tensors would begin."""
    kind = str(value.type.WhichOneof("value")).removesuffix("_type")
    reader = next((node for node in model.graph.node if value.name in node.input), None)
    hint = "" if reader is None else (
        f": take the part of the file behind {reader.op_type} (node {reader.name!r}) as the model, with the tensor "
        f"{reader.output[0]!r} as its input (onnx.utils.extract_model)"
    )  # fmt: skip
    return ModelError(
        f"input {value.name!r} is a {kind}, and only tensors can be given{hint}",
        reason="MODEL_INVALID", input=value.name,
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
        elif kind in _FLOATS:
            inputs[value.name] = rng.normal(size=shape).astype(helper.tensor_dtype_to_np_dtype(kind))
        else:
            inputs[value.name] = rng.integers(0, high, size=shape).astype(
                helper.tensor_dtype_to_np_dtype(kind)
            )
    return inputs


_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}


def _candidates(
    model: onnx.ModelProto, fixed: Mapping[str, tuple[int, ...]]
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes for all inputs; symbolic dimensions of one name have one size, the first axis is 1."""
    dims: dict[str, list[int | str]] = {}
    for value in model.graph.input:
        if value.name in fixed:
            dims[value.name] = list(fixed[value.name])
            continue
        found = value.type.tensor_type.shape.dim
        dims[value.name] = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in found]
    batch = {shape[0] for shape in dims.values() if shape and isinstance(shape[0], str)}
    free = sorted({d for shape in dims.values() for d in shape if isinstance(d, str)} - batch)
    grids = [dict.fromkeys(free, size) for size in SIZES] if free else [{}]
    if 1 < len(free) <= 3:
        grids += [
            dict(zip(free, sizes, strict=True))
            for sizes in itertools.product((1, 4, 32, 64), repeat=len(free))
        ]
    if len(free) > 1:  # one length, where the others are 1 as the batch is
        grids += [{**dict.fromkeys(free, 1), one: size} for one in free for size in sorted(SIZES)]
    starts = [1, *SIZES] if not free else [1, 8]
    for start in dict.fromkeys(starts if batch else [1]):
        for grid in grids:
            sizes = {**grid, **dict.fromkeys(batch, start)}
            yield {
                name: tuple(sizes[d] if isinstance(d, str) else max(d, 0) for d in shape)
                for name, shape in dims.items()
            }

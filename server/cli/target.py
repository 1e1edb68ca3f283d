"""What `--target` and `--minus` say: an index, a mask or weights from a file, a tensor, or both."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.server.cli.files import read_file
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.values import Index, Selection, Selector, Target

PART = re.compile(r"\s*(?:(-?\d+)|(-?\d+)?\s*:\s*(-?\d+)?(?:\s*:\s*(-?\d+))?)\s*")


def parse_target(given: Sequence[str], minus: Sequence[str], outputs: Collection[str]) -> Target:
    """The target of `3`, `2,5`, `0:3,1`, `@FILE`, `1,@FILE`, `TENSOR`, `TENSOR:` and `TENSOR:3`; several say one for
    each sample, or the elements of a region of one sample.

    Raises:
        InvalidArgument: the text has none of these forms, names more than one tensor, or a file that cannot be used.
    """
    split = [split_tensor(text, outputs) for text in given]
    tensors = {tensor for tensor, _ in split}
    if len(tensors) > 1:
        raise InvalidArgument(
            f"the targets name different tensors: {', '.join(str(t) for t in tensors)}",
            reason=Reason.TARGET_INVALID,
        )
    subtracted = [parse_index(text) for text in minus]
    wrong = [text for text, index in zip(minus, subtracted, strict=True) if index is None]
    if wrong:
        raise InvalidArgument(
            f"--minus {wrong[0]!r} is no index; write one as in --target, without a tensor",
            reason=Reason.TARGET_INVALID,
        )
    return Target(next(iter(tensors), None), _one([index for _, index in split]), _one(subtracted))


def split_tensor(text: str, outputs: Collection[str]) -> tuple[str | None, Selector]:
    """Tensor and index. Tensors may have colons and digits in their names: what is an output's name comes first."""
    if not text.strip():
        raise InvalidArgument("the target is empty", reason=Reason.TARGET_INVALID)
    ways: list[tuple[str, Selector]] = [(text, None)]
    for place in (match.start() for match in re.finditer(":", text)):
        tensor, rest = text[:place], text[place + 1 :]
        index = parse_index(rest)
        if tensor and (index is not None or not rest.strip()):
            ways.append((tensor, index))
    for tensor, index in ways[1:]:
        if tensor in outputs:
            return tensor, index
    whole = parse_index(text)
    if whole is not None:
        return None, whole
    return ways[0] if text in outputs or len(ways) == 1 else ways[1]


def parse_index(text: str) -> Selector:
    """`3`, `2,5`, `0:3,1`, `@FILE` or `1,@FILE`; None for what is no index.

    A file alone holds truth values, a mask, or numbers, the weights of a sum. Beside other parts it is a mask.
    """
    if text.strip().startswith("@") and ("," not in text or Path(text.strip()[1:]).is_file()):
        array = _array(text)
        return array if array.dtype.kind == "b" else array.astype(np.float64)
    parts: list[Index] = []
    for part in text.split(","):
        if part.strip().startswith("@"):
            parts.append(_mask(part))
            continue
        match = PART.fullmatch(part)
        if match is None or match[4] == "0":
            return None
        if match[1] is not None:
            parts.append(int(match[1]))
        else:
            parts.append(slice(*(None if n is None else int(n) for n in match.group(2, 3, 4))))
    return parts[0] if len(parts) == 1 else tuple(parts)


def _array(text: str) -> NDArray[Any]:
    array = read_file(text.strip()[1:], None, Picture())
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise InvalidArgument(
            f"{text.strip()[1:]!r} holds {array.dtype.name} of shape {list(array.shape)}; a target is a mask (truth "
            "values) or weights (numbers) of the shape of one sample's target",
            reason=Reason.TARGET_INVALID,
        )
    return array


def _mask(text: str) -> NDArray[np.bool_]:
    array = _array(text)
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        raise InvalidArgument(
            f"{text.strip()[1:]!r} holds numbers other than 0 and 1; beside other parts of an index it is a mask",
            reason=Reason.TARGET_INVALID,
        )
    return array.astype(np.bool_)


def _one(indices: list[Selector]) -> Selection:
    return None if not indices else indices[0] if len(indices) == 1 else indices

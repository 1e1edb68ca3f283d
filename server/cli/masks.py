"""Masks of the samples of an audit: where in each the reason for its class is known to lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.data import Dataset, Item
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.files import Rows, read_file
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.values import Array

MASKS = ("masks", "mask")
"""What an array of masks is called beside the samples, where no input is called so."""


def with_masks(found: Dataset, given: str | None, rows: Rows) -> Dataset:
    """The samples with the masks of a file: an array of one for each sample of the data set, of which `rows` are taken
    as of the samples, or an npz with one for each sample by its name.

    Raises:
        InvalidArgument: the file cannot be read, holds other numbers than 0 and 1, or not one mask for each sample.
    """
    if given is None:
        return found
    named = _by_name(given, found.items)
    if named is None:
        whole = truths(read_file(given if ":" in given else _of_masks(given), None, Picture()), given)
        if not whole.ndim:
            raise InvalidArgument(f"--masks {given!r} holds one number, and no mask for each sample")
        named = list(whole if rows is None else whole[rows])
    if len(named) != len(found):
        raise InvalidArgument(f"--masks {given!r} holds {len(named)} masks for {len(found)} samples")
    return replace(
        found, items=[replace(one, mask=mask) for one, mask in zip(found.items, named, strict=True)]
    )


def truths(array: Array, words: str) -> NDArray[np.bool_]:
    """Truth values, as 0 and 1 of any type. Raises: InvalidArgument: other numbers."""
    known = np.asarray(array)
    if known.dtype.kind == "b":
        return known.astype(np.bool_, copy=False)
    if known.dtype.kind not in "iuf" or not np.isin(known, (0, 1)).all():
        raise InvalidArgument(f"{words!r} is no mask: it holds other things than 0 and 1")
    return known.astype(np.bool_)


def _of_masks(given: str) -> str:
    """The file with the key of its masks, where it is an npz of several arrays."""
    keys = _keys(given)
    key = next((one for one in MASKS if one in keys), None)
    return given if key is None or len(keys) < 2 else f"{given}:{key}"


def _by_name(given: str, items: Sequence[Item]) -> list[NDArray[np.bool_]] | None:
    """The mask of each sample in an npz that names all of them, with or without the ends of files."""
    keys = _keys(given)
    found: list[NDArray[np.bool_]] = []
    for item in items:
        key = next((one for one in (item.id, PurePath(item.id).stem) if one in keys), None)
        if key is None:
            return None
        found.append(truths(read_file(f"{given}:{key}", None, Picture()), f"{given}:{key}"))
    return found


def _keys(given: str) -> Sequence[str]:
    """The names of the arrays of an npz; none of what is no such file, which whoever reads it says."""
    if not given.lower().endswith(".npz") or not Path(given).is_file():
        return ()
    try:
        loaded: Any = np.load(given, allow_pickle=False)
        with loaded:
            return tuple(loaded.files)
    except Exception:  # as in files.py: libraries fail in many ways
        return ()

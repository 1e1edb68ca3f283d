"""The files that `explain` writes: arrays and pictures of an answer."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.client.render.inputs import shown_of
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.pictures import FLOATS, Picture
from onnx_attribution.values import Array, Attribution, ModelInfo, Preprocessing


def check_places(out: Path | None, plot: Path | None) -> None:
    """Refuses what could not be written, before anything is computed."""
    for path in (out, plot):
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise InvalidArgument(f"{str(path)!r} cannot be written: no such folder, or a folder itself")
    if plot is not None:
        if plot.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg", ".jpeg"):
            raise InvalidArgument(f"--plot {str(plot)!r}: the name must end in .png, .svg, .pdf or .jpg")
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError:
            raise InvalidArgument("--plot needs matplotlib: pip install 'onnx-attribution[plot]'") from None


def require_apart(written: Mapping[str, Path | None], read: Mapping[str, str | Path]) -> None:
    """Refuses to write what is read, or two things into one file; both are files by the option that names them, ""
    where there is none.

    Raises:
        InvalidArgument: the message names both options.
    """
    taken = {Path(file).resolve(): option for option, file in read.items() if file != ""}
    for option, path in written.items():
        if path is None:
            continue
        if (other := taken.get(path.resolve())) is not None:
            raise InvalidArgument(f"{option} {str(path)!r} is the file of {other}; name another one")
        taken[path.resolve()] = option


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """An npz of arrays of any names; `np.savez` has arguments that a layer may be called like."""
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    except OSError as error:
        raise InvalidArgument(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def draw_answer(
    path: Path,
    answer: Attribution,
    arrays: Mapping[str, Array],
    info: ModelInfo,
    picture: Picture,
    baselines: Sequence[str],
    names: UnitNames,
) -> None:
    """The picture of `--plot`: beside it the inputs that can be looked at, or that label its positions."""
    from onnx_attribution.client.render import plot

    shown = shown_of(
        info,
        arrays,
        layout=picture.layout,
        preprocessing=ways_of(info, picture),
        baseline=", ".join(Path(text).name for text in baselines) or "0",
    )
    try:
        plot.draw(path, answer, shown=replace(shown, names=names))
    except OSError as error:
        raise InvalidArgument(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def ways_of(info: ModelInfo, picture: Picture) -> dict[str, Preprocessing]:
    """How each input is made of pictures: as the options say, or else the model's card."""
    found = dict(info.preprocessing)
    for one in info.inputs:
        own, said = picture.of(one.name), found.get(one.name)
        scaled = own.scale is not None or own.mean is not None or own.std is not None
        if scaled and (said is None or said.kind == "image"):
            default = 1 / 255 if one.dtype in FLOATS else 1.0
            scale = default if own.scale is None else own.scale
            layout = said.layout if said else None
            found[one.name] = Preprocessing(
                "image", own.size, scale, own.mean or (), own.std or (), layout, own.colours
            )
        elif own.colours is not None and said is None:
            found[one.name] = Preprocessing("array", colours=own.colours)
    return found

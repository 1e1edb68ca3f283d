"""`importance FILE`: how much each unit of a layer matters to the class of each sample of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.importance import Importance
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Place, asking
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.dataset import indices_of, read_labelled
from onnx_attribution.server.cli.files import read_file
from onnx_attribution.server.cli.inputs import parse_rows
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.progress import progress
from onnx_attribution.server.cli.written import check_places, require_apart
from onnx_attribution.values import ChannelSums, ModelInfo

STRONGEST = 3
"""Units that are shown of each class."""


@bundled()
def importance(
    *,
    layer: Annotated[
        str,
        typer.Option(metavar="NAME", help="The layer whose units are weighed, by its name as in explain."),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE",
            help="The samples: an .npz of arrays by input, a .npy of the only input, a folder or a .parquet file as "
            "in audit.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.npz", help="Where the importance is written.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The class of each sample, of the data before --rows: indices or one-hot rows, npy, npz:KEY or json; "
            "default: those of the data.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="TENSOR", help="The scores of the classes; default: the only float output."),
    ] = None,
    logit: options.LogitWhereThereIsOne = None,
    channel_axis: Annotated[
        int | None,
        typer.Option(
            metavar="AXIS",
            help="The axis of the units, counted with that of the samples in front; over all others is summed. "
            "Default: 1 at convolutions, the last at products with weights, as [N, tokens, units].",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What the layer depends on, as in explain. Repeatable."),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="3|0:3", help="Only these samples of the data set.")
    ] = None,
    picture: Picture,
    place: Place,
    json: options.Json = False,
) -> None:
    """Sums the gradient of each sample's own class over the positions of each unit of a layer.

    OUT.npz holds it per sample, with its mean, count and spread per class.
    """
    wanted = None if rows is None else parse_rows(rows)
    channels: ChannelSums = "auto" if channel_axis is None else channel_axis
    check_places(out, None)
    read: dict[str, str | Path] = {
        "FILE": "" if place.server else place.file,
        "--labels": labels or "",
        "--data": data,
    }
    require_apart({"--output": out}, read)
    with asking(place) as asker:
        info = asker.info()
        picture = replace(picture, said=info.preprocessing)
        arrays, own = read_labelled(data, info, picture, wanted)
        names = _classes(info, target)
        given: Any = _labels(labels, wanted) if labels is not None else None
        if given is None:
            if own is None:
                raise InvalidArgument(
                    f"{str(data)!r} has no labels; --labels FILE gives the class of each sample"
                )
            given = own if isinstance(own, np.ndarray) else np.array(indices_of(own, names), np.int64)
        asked, name = asker.asked
        with progress("samples") as report:
            found = asked.importance(
                name, arrays, given, layer=layer, target=target, logit=logit, channels=channels,
                source=tuple(source or ()), progress=lambda done, planned: report(done, planned, ""),
            )  # fmt: skip
    found = replace(found, warnings=(*found.warnings, *picture.notes))
    found.save(out)
    if json:
        output.print_json(told(found))
        return
    _print(place.model, told(found), out)


def _labels(text: str, rows: slice | None) -> Any:
    """The labels of a file, of the rows that are taken."""
    found = read_file(text, None, Picture())
    return found if rows is None or found.ndim == 0 else found[rows]


def _classes(info: ModelInfo, target: str | None) -> tuple[str, ...]:
    """The names of the classes, where the model has some."""
    names: Mapping[str, tuple[str, ...]] = info.class_names
    return names.get(target or "", next(iter(names.values()), ()))


def told(found: Importance) -> dict[str, Any]:
    """What is printed of an importance: of each class its strongest units."""
    classes = []
    for row, label in enumerate(found.classes.tolist()):
        units = np.argsort(-np.abs(np.nan_to_num(found.mean[row])), kind="stable")[:STRONGEST].tolist()
        classes.append(
            {
                "class": label,
                "name": found.names[row] if found.names else None,
                "samples": int(found.count[row]),
                "strongest": [
                    {"unit": k, "mean": float(found.mean[row, k]), "std": float(found.std[row, k])}
                    for k in units
                ],
            }
        )
    samples, units = found.alpha.shape
    return {
        "layer": found.layer,
        "target": found.target,
        "samples": samples,
        "units": units,
        "classes": classes,
        "digest": found.digest,
        "warnings": found.warnings,
    }


def _print(model: str, found: Mapping[str, Any], out: Path) -> None:
    """The table of `importance`: of each class the units whose mean is furthest from 0."""
    screen = output.console()
    screen.print(
        f"importance of the {found['units']} units of {escape(found['layer'])} for {escape(found['target'])} of "
        f"{escape(model)}, over {found['samples']} samples: {escape(str(out))}",
        soft_wrap=True,
    )
    table = output.table("class", "name", "samples", "strongest units: mean +- deviation", right=(0, 2))
    for one in found["classes"]:
        units = "   ".join(
            f"{unit['unit']}: {output.number(unit['mean'])} +- {output.number(unit['std'])}"
            for unit in one["strongest"]
        )
        table.add_row(str(one["class"]), escape(one["name"] or "-"), str(one["samples"]), units)
    screen.print(table)
    output.print_warnings(screen, found["warnings"])

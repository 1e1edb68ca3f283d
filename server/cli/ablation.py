"""`ablation FILE`: how early the target falls as neurons go in the order of each method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape

from onnx_attribution.client.audit import ablation as experiment
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Place, asking
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.inputs import (
    parse_rows,
    read_baselines,
    read_inputs,
    read_parts,
)
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.progress import progress
from onnx_attribution.server.cli.samples import Parts, taken
from onnx_attribution.server.cli.target import parse_target
from onnx_attribution.values import Preprocessing, TensorInfo


@bundled()
def ablation(
    *,
    layer: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Whose neurons go: a layer, or an input. Repeatable: they are ranked together.",
        ),
    ],
    data: Annotated[
        options.Many,
        typer.Option(
            metavar="[NAME=]FILE",
            help="The samples: npy, npz[:KEY], json or a picture, as --input of explain; default: the example beside "
            "the model. Repeatable.",
        ),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Which rank the neurons, between commas; `random` is the control."
        ),
    ] = ",".join(experiment.METHODS),
    by: Annotated[
        str,
        typer.Option(
            metavar="channels|AXES|all",
            help="What goes together: channels, or the axes of one sample that tell groups apart, 1,2 the positions "
            "of [channels, height, width]; all: each element by itself.",
        ),
    ] = "channels",
    patch: Annotated[
        str | None,
        typer.Option(metavar="8x8", help="In place of --by: patches of this size along the last axes."),
    ] = None,
    insertion: Annotated[
        bool,
        typer.Option("--insertion", help="All are gone at first, and come back in order."),
    ] = False,
    to: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|mean|resample|baseline",
            help="What they become; mean: their mean over the samples, resample: what they are in another sample, "
            "baseline: what they are at the baseline of the input.",
        ),
    ] = "0",
    points: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Steps of a curve at most.")] = 32,
    target: options.Target = None,
    minus: options.Minus = None,
    logit: options.Logit = False,
    mean_centred: options.MeanCentred = False,
    baseline: options.Baseline = None,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Rank by the magnitude of a group's sum.")
    ] = False,
    draws: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Rankings of `random`.")] = 5,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Of these, and of resample.")] = 0,
    rows: options.Rows = None,
    place: Place,
    json: options.Json = False,
) -> None:
    """Ranks the neurons of a layer by each method and removes them in that order: the area under the curve of the
    target says which ranking knows what the model uses.

    Small is good (with --insertion large). `gain` is what a method has over random rankings of the same samples,
    `turned at` after how many groups, in the median, the model decides for something else, and `share` for how many of
    the samples that happens.
    """
    names = [name.strip().replace("-", "_") for name in methods.split(",") if name.strip()]
    wanted = parse_rows(rows) if rows is not None else None
    groups, replaced = _groups(by, patch), _replaced(to)
    picture = Picture()

    def read(infos: Sequence[TensorInfo], said: Mapping[str, Preprocessing]) -> Parts:
        return read_parts(data or [], infos, replace(picture, said=said))

    with asking(place, read) as asker:
        info = asker.info()
        picture = replace(picture, said=info.preprocessing)
        if not data and (arrays := asker.example()):
            picture.note("no --data is given: the example beside the model is all there is")
            arrays = taken(arrays, {one.name: one for one in info.inputs}, info.batch, wanted)
        else:
            arrays = read_inputs(data or [], info.inputs, picture, wanted, info.batch)
        asked = replace(
            parse_target(target or [], minus or [], [one.name for one in info.outputs]),
            logit=logit,
            mean_centred=mean_centred,
        )
        asked_of, name = asker.asked
        with progress("curves") as report:
            found = experiment.ablation(
                asked_of,
                name,
                arrays,
                layer,
                methods=names,
                groups=groups,
                kind="insertion" if insertion else "deletion",
                to=replaced,
                points=points,
                target=asked,
                baselines=read_baselines(baseline or [], info.sources, info.inputs, picture),
                absolute=absolute,
                draws=draws,
                seed=seed,
                progress=lambda done, planned: report(done, planned, ""),
            )
    found = replace(found, model=place.model, warnings=(*found.warnings, *picture.notes))
    if json:
        output.print_json(found.json())
        return
    _print(found)


def _groups(by: str, patch: str | None) -> Callable[[tuple[int, ...]], NDArray[np.int64]] | None:
    """What makes groups of the shape of one sample; None: channels do. Raises: InvalidArgument."""
    if patch is not None:
        sizes = [_whole(part, f"--patch {patch!r} is not of the form 8x8") for part in patch.split("x")]
        return lambda unit: experiment.patches(unit, sizes)
    if by == "channels":
        return None
    if by == "all":
        return experiment.by_axes
    axes = [
        _whole(part, f"--by {by!r} is no list of axes such as 0 or 1,2, and neither `channels` nor `all`")
        for part in by.split(",")
    ]
    return lambda unit: experiment.by_axes(unit, axes)


def _whole(text: str, words: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(words) from None


def _replaced(to: str) -> Any:
    if to in ("mean", "resample", "baseline"):
        return to
    try:
        return float(to)
    except ValueError:
        raise InvalidArgument(f"--to {to!r} is no number, and none of mean, resample and baseline") from None


def _print(found: experiment.Ablation) -> None:
    """The table of `ablation`, the best method first."""
    out = output.console()
    order = "come back" if found.kind == "insertion" else "go"
    out.print(
        f"{found.groups} groups of {escape(found.layer)} {order} in the order of their ranks, each {found.to}; "
        f"{found.samples} samples",
        soft_wrap=True,
    )
    columns = ("method", "area", "+-", "gain on random", "+-", "turned at", "share")
    table = output.table(*columns, right=range(1, len(columns)))
    for one in found.rows():
        numbers = (one.area, one.area_error, one.gain, one.gain_error, one.turned)
        table.add_row(escape(one.method), *map(output.number, numbers), output.percent(one.turned_share))
    out.print(table)
    for name, reason in found.failed.items():
        out.print(f"[yellow]refused[/]: {escape(f'{name}: {reason}')}", soft_wrap=True)
    output.print_warnings(out, found.warnings)

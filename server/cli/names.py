"""`names FILE`: names for the units of a layer, and what a prediction is explained by in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from onnx_attribution.client.niwt.classes import read_classes
from onnx_attribution.client.niwt.domain_map import mean_of_units
from onnx_attribution.client.niwt.names import InverseMap, inverse, named
from onnx_attribution.client.niwt.unit_names import UnitName, UnitNames
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.importance import Importance
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Asker, Place, asking
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.inputs import parse_rows, read_inputs
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.recorded import require_fitting
from onnx_attribution.server.cli.target import parse_target
from onnx_attribution.server.cli.written import check_places, require_apart
from onnx_attribution.values import AttributionRequest, LayerInfo, ModelInfo

WORDS = 5
"""Attributes that are told of a prediction."""


@bundled()
def names(
    *,
    layer: Annotated[str, typer.Option(metavar="NAME", help="The layer of the importance.")],
    importance: Annotated[
        Path, typer.Option(metavar="FILE.npz", help="What the command importance wrote, of this file.")
    ],
    classes: options.Classes,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT.csv", help="Where layer,unit,name,score,null,model are written."
        ),
    ] = None,
    input: Annotated[
        options.Many,
        typer.Option(
            metavar="[NAME=]FILE",
            help="As for explain: the predictions for these samples are explained by attributes. Repeatable.",
        ),
    ] = None,
    target: Annotated[
        options.Many, typer.Option(metavar="INDEX", help="The class that is explained; default: the largest.")
    ] = None,
    rows: options.Rows = None,
    seed: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Of the permutations.")] = 0,
    place: Place,
    json: options.Json = False,
) -> None:
    """Names the units of a layer by the attributes of the classes that they matter to (NIWT, arXiv 1808.02861).

    A score is in standard deviations of the attribute over the units; `null` is the 95 % point of the best score where
    descriptions are dealt out to classes by chance, and only a score above it means something.
    """
    check_places(out, None)
    own = "" if place.server else place.model
    require_apart({"--output": out}, {"FILE": own, "--importance": importance, "--classes": classes})
    table, record = read_classes(classes), Importance.load(importance)
    seen = {index for index in table.seen if index is not None}
    indices = sorted(seen & {int(one) for one in record.classes})
    if len(indices) < 3:
        raise InvalidArgument(
            f"{table.file} and the importance have {len(indices)} classes in common; three at least are needed"
        )
    with asking(place) as asker:
        info = asker.info()
        layers = asker.layers("")
        require_fitting(record, info, asker.tensors, layer, str(importance))
        if count := _count(record.target, info, layers):
            table.require_outputs(count)
        measured = mean_of_units(record.alpha.astype(np.float64), record.labels, indices)
        described = table.described(indices)
        best = named(described, measured, seed=seed)
        found = UnitNames(
            tuple(
                UnitName(record.layer, k, table.attributes[int(m)], float(score), float(null), info.digest)
                for k, (m, score, null) in enumerate(zip(best.name, best.score, best.null, strict=True))
            )
        )
        explained = []
        if input:
            picture = Picture(said=info.preprocessing)
            wanted = parse_rows(rows) if rows is not None else None
            arrays = read_inputs(input, info.inputs, picture, wanted, info.batch)
            asked = parse_target(target or [], [], [one.name for one in info.outputs])
            request = AttributionRequest(
                "", arrays, "gradient", [record.layer], channel_sums=record.channel_sums,
                target=replace(asked, tensor=asked.tensor or record.target or None),
            )  # fmt: skip
            explained = _explained(asker, request, inverse(described, measured), table.attributes)
    if out is not None:
        found.write(out)
    warnings = [*table.warnings(), *record.warnings]
    certain = int(best.certain.sum())
    if 0 < certain <= best.chance:
        warnings.append(
            f"{certain} units have a score above their null, and under shuffled descriptions up to {best.chance} have "
            "(in 19 of 20 shuffles): these names may all be chance; more classes, or attributes that say more, are the "
            "remedy"
        )
    if json:
        output.print_json(
            {
                "layer": record.layer,
                "names": [{**vars(one), "means_something": one.means_something} for one in found.all],
                "chance": best.chance,
                "predictions": explained,
                "warnings": warnings,
            }
        )
        return
    _print(found, record.layer, explained, warnings)


def _count(target: str, info: ModelInfo, layers: Sequence[LayerInfo]) -> int | None:
    """How many classes a tensor of scores has; None where that is not known."""
    shapes = {one.name: one.shape for one in layers} | {one.name: one.shape for one in info.outputs}
    sizes = [size for size in (shapes.get(target) or ())[1:] if size != 1]
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], int) else None


def _explained(
    asker: Asker, request: AttributionRequest, words: InverseMap, attributes: Sequence[str]
) -> list[dict[str, Any]]:
    """Of each sample the attributes that the importance for its target maps to, the strongest first."""
    answer = asker.attribute(request)
    (layer,) = answer.layers.values()
    told = words(np.asarray(layer.values, np.float64))
    found = []
    for k, row in enumerate(told):
        order = np.argsort(-np.abs(row), kind="stable")[:WORDS]
        found.append(
            {
                "sample": k,
                "target": answer.target.index[k],
                "label": answer.target.labels[k] if answer.target.labels else None,
                "attributes": {attributes[int(m)]: float(row[m]) for m in order},
            }
        )
    return found


def _print(
    found: UnitNames, layer: str, explained: Sequence[Mapping[str, Any]], warnings: Sequence[str]
) -> None:
    """The table of `names`: units whose names mean something, the strongest first."""
    screen = output.console()
    named = sorted((one for one in found.all if one.means_something), key=lambda one: one.null - one.score)
    screen.print(
        escape(f"{layer}: {len(named)} of {len(found.all)} units have a name above chance"), soft_wrap=True
    )
    table = output.table("unit", "name", "score", "null", right=(0, 2, 3))
    for one in named:
        table.add_row(str(one.unit), escape(one.name), output.number(one.score), output.number(one.null))
    if named:
        screen.print(table)
    for told in explained:
        label = f" ({told['label']})" if told["label"] else ""
        words = ", ".join(f"{name} {value:+.2f}" for name, value in told["attributes"].items())
        screen.print(
            escape(f"sample {told['sample']}, class {told['target']}{label}: {words}"), soft_wrap=True
        )
    output.print_warnings(screen, warnings)

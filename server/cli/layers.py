"""`layers FILE`: what can be attributed to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Place, asking
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.named import names_of
from onnx_attribution.values import LayerInfo, ModelInfo, Preprocessing


@bundled(provider="cpu")
def layers(
    *,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Only names and nodes with this part or of this glob, or this operator."
        ),
    ] = "",
    names: options.Names = None,
    place: Place,
    json: options.Json = False,
) -> None:
    """Lists the layers between the sources and the target: name, node, operator, shape, type, whether it is a cut."""
    told = names_of(names)
    with asking(place) as asker:
        named = told(asker)
        info, found = asker.info(), asker.layers(pattern)
    if json:
        output.print_json(_object(place.file, info, found, named))
    else:
        _print(info, found, named)


def _object(file: str, info: ModelInfo, layers: Sequence[LayerInfo], names: UnitNames) -> dict[str, object]:
    """The object of `layers --json`."""
    return {
        "file": file,
        "description": info.description,
        "batch": info.batch,
        "sources": info.sources,
        "inputs": [asdict(one) for one in info.inputs],
        "outputs": [asdict(one) for one in info.outputs],
        "class_names": info.class_names,
        "preprocessing": {name: asdict(one) for name, one in info.preprocessing.items()},
        "layers": [{**asdict(one), **({"names": names.of(one.name)} if names.all else {})} for one in layers],
    }


def _print(info: ModelInfo, layers: Sequence[LayerInfo], names: UnitNames) -> None:
    """The table of `layers`, with the names of units where there are some."""
    out = output.console()
    if info.description:
        out.print(escape(info.description), soft_wrap=True)
    ways = {name: _way_text(one) for name, one in info.preprocessing.items()}
    classes = {name: f"{len(each)} classes: {_few(each)}" for name, each in info.class_names.items()}
    for title, tensors, said in (("input", info.inputs, ways), ("output", info.outputs, classes)):
        for one in tensors:
            more = f"; {said.pop(one.name)}" if one.name in said else ""
            out.print(
                escape(f"{title} {one.name}: {one.dtype} {output.shape_text(one.shape)}{more}"),
                soft_wrap=bool(more),
            )
    for name, text in classes.items():  # of a tensor that is no output
        out.print(escape(f"tensor {name}: {text}"), soft_wrap=True)
    out.print(f"batch {info.batch}, opset {info.opset}; source {escape(', '.join(info.sources) or 'none')}")
    table = output.table("layer", "node", "operator", "shape", "type", "cut", *["units"] * bool(names.all))
    for layer in layers:
        row = (
            layer.name,
            layer.node,
            layer.operator,
            output.shape_text(layer.shape),
            layer.dtype,
            output.MARKS[layer.cut],
        )
        table.add_row(*map(escape, row), *[escape(names.words(layer.name))] * bool(names.all))
    out.print(table)


def _way_text(way: Preprocessing) -> str:
    """How an input is made of what people hold, in words."""
    if way.kind != "image":
        return way.kind
    lists = [", ".join(f"{one:.4g}" for one in each) for each in (way.mean or (0.0,), way.std or (1.0,))]
    mean, std = (f"[{text}]" if "," in text else text for text in lists)
    size = f" of {way.size[0]} x {way.size[1]}" if way.size else ""
    words = [f"image{size}", f"(pixel * {way.scale:.4g} - {mean}) / {std}", way.layout, way.colours]
    return ", ".join(word for word in words if word)


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)

"""`add-class FILE`: classes that a network has never seen, added to its file by their description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_attribution.client.niwt import choose as algorithm
from onnx_attribution.client.niwt.classes import Classes, read_classes
from onnx_attribution.client.niwt.features import dependence
from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.importance import Importance
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.added import print_added, told_of, write_file, write_report
from onnx_attribution.server.cli.asker import provider_of, quiet
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.dataset import read_dataset
from onnx_attribution.server.cli.export import File, Force, check_out
from onnx_attribution.server.cli.inputs import axes_of, parse_rows, shapes_of
from onnx_attribution.server.cli.known import features_of, known_of, shown_of
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.recorded import require_fitting, require_logits
from onnx_attribution.server.cli.written import check_places, require_apart
from onnx_attribution.values import ModelInfo

if TYPE_CHECKING:
    import onnx

    from onnx_attribution.graph_tools.ir.weights import Weights
    from onnx_attribution.graph_tools.programs.head import Head

PROVEN = 3
"""Images at which the new file is compared with the old one."""


@bundled()
def add_class(
    *,
    file: File,
    layer: Annotated[
        str,
        typer.Option(metavar="NAME", help="The layer of the importance; every way to the head crosses it."),
    ],
    importance: Annotated[
        Path, typer.Option(metavar="FILE.npz", help="What the command importance wrote, of this file.")
    ],
    classes: options.Classes,
    images: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE",
            help="Samples as the network takes them, as in audit; of any classes, labels are not needed.",
        ),
    ],
    add: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="The classes to add, between commas; they are in the csv. A name with a comma stands in quotes.",
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.onnx", help="The file to write.")],
    head: Annotated[
        str | None,
        typer.Option(
            metavar="NODE",
            help="The Gemm, MatMul or 1x1 Conv that makes the logits; default: the only one that can.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Where it is written what was chosen, and by what."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Of the classes that are held out.")] = 0,
    hidden: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Units of a hidden layer between descriptions and importance; 0: a linear map.",
        ),
    ] = 0,
    most: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="Images at which the features are differentiated.")
    ] = 64,
    rows: Annotated[
        str | None, typer.Option(metavar="3|0:3", help="Only these samples of the images.")
    ] = None,
    force: Force = False,
    picture: Picture,
    provider: options.Provider = "auto",
    threads: options.Threads = 0,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    json: options.Json = False,
) -> None:
    """Adds classes to a classifier by their description, without a new training (NIWT, arXiv 1808.02861).

    What a description means for the units of a layer is learnt from the classes that the network knows; the weights of
    a new class are those whose importance comes closest to that. How strongly they are pulled towards known ones, and
    how the new classes are weighed against the old, is chosen on known classes that are held out as if they were new.

    The logits of the classes that were there keep every bit.
    """
    from onnx_attribution.graph_tools.ir.weights import Weights
    from onnx_attribution.server.engine import Engine

    check_out(file, out, force)
    check_places(report, None)
    require_apart(
        {"--output": out, "--report": report},
        {"FILE": file, "--importance": importance, "--classes": classes, "--images": images},
    )
    table, record = read_classes(classes), Importance.load(importance)
    names = table.named(add)
    if not names:
        raise InvalidArgument("--add names no class")
    described = table.values[table.rows_of(names)]
    if not_new := [
        n for n, row in zip(names, table.rows_of(names), strict=True) if table.seen[row] is not None
    ]:
        raise InvalidArgument(
            f"{table.file}: the class {not_new[0]!r} has an output index, so the network knows it; those without are: "
            f"{', '.join(table.unseen_names()) or 'none'}"
        )
    with quiet(), Engine(provider=provider_of(provider), threads=threads or None) as engine:
        name = Path(file).name
        engine.add(name, file, batch_axes=axes_of(batch_axis or []), shapes=shapes_of(shape or []))
        info = engine.info(name)
        picture = replace(picture, said=info.preprocessing)
        require_fitting(record, info, lambda text: [engine.tensor(name, text)], layer, str(importance))
        data = read_dataset(images, info, picture, None if rows is None else parse_rows(rows))
        shapes = {one.name: one.shape for one in engine.layers(name, "") if one.shape is not None}
        weights = Weights()
        model, found = _head_of(file, head, shapes, weights)
        require_logits(record, model, found, str(importance))
        table.require_outputs(found.classes)
        old = _old_names(found, info, table)
        if clash := [one for one in names if one.casefold() in {each.casefold() for each in old}]:
            raise InvalidArgument(f"the network has a class {clash[0]!r} already; call the new one otherwise")
        notes = [*table.warnings(), *picture.notes]
        samples = [one.inputs for one in data.items]
        phi, features = features_of(engine, name, found, samples, info)
        alone = info.batch == "single"
        try:
            depends = dependence(
                engine.attribute,
                name,
                samples,
                record.layer,
                features,
                channels=record.channel_sums,
                whole=alone,
                most=most,
            )
        except NotDifferentiable as error:
            raise InvalidArgument(
                f"the importance is of layer {record.layer!r}, from which no way leads to what the head {found.node!r} "
                f"takes; measure that of a layer before it ({error.message})"
            ) from None
        known = known_of(found, record, table, depends, phi, notes)
        shown = shown_of(known, notes)
        choice = algorithm.guarded(
            shown, len(names), algorithm.choose(shown, len(names), seed=seed, hidden=hidden)
        )
        if not choice.informative:
            notes.append(
                "on known classes held out the descriptions say no more than shuffled ones (p at least "
                f"{choice.p:.2g}), so the new classes take no image from known ones; other attributes, another layer "
                "or more classes may do"
            )
        made = algorithm.add(known, described, choice)
        told = told_of(
            file, info, found, record, table, depends, names, choice, made, [*notes, *depends.warnings]
        )
        proven = list(zip(samples, phi, strict=True))[:PROVEN]
        write_file(model, found, old, made, told, out, proven, shapes)
    if report is not None:
        write_report(report, told)
    if json:
        output.print_json({"written": str(out), **told})
        return
    print_added(out, told)


def _head_of(
    file: str, name: str | None, shapes: Mapping[str, tuple[int | str | None, ...]], weights: Weights
) -> tuple[onnx.ModelProto, Head]:
    """The file as it is, whose large weights are held apart, and its head."""
    from onnx_attribution.graph_tools.programs.head import find_head
    from onnx_attribution.graph_tools.read.load import load

    model = load(file, weights)
    return model, find_head(model, name, shapes)


def _old_names(head: Head, info: ModelInfo, table: Classes) -> list[str]:
    """What the classes of the network are called: as its card says, else as the table does, else by their indices."""
    told = [each for each in info.class_names.values() if len(each) == head.classes]
    if told:
        return list(told[0])
    by_index = {index: name for name, index in zip(table.names, table.seen, strict=True) if index is not None}
    return [by_index.get(k, str(k)) for k in range(head.classes)]

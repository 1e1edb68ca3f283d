"""`add-class FILE`: classes that a network has never seen, added to its file by their description."""

from __future__ import annotations

import json as text
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from onnx_attribution.client.niwt import choose as algorithm
from onnx_attribution.client.niwt.classes import Classes, read_classes
from onnx_attribution.client.niwt.domain_map import mean_of_units
from onnx_attribution.client.niwt.features import Dependence, Features, dependence
from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.importance import Importance
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import provider_of, quiet
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.dataset import read_dataset
from onnx_attribution.server.cli.export import File, Force, check_out
from onnx_attribution.server.cli.inputs import axes_of, parse_rows, shapes_of
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.recorded import require_fitting, require_logits
from onnx_attribution.server.cli.written import check_places, require_apart
from onnx_attribution.values import Array, ModelInfo

if TYPE_CHECKING:
    import onnx

    from onnx_attribution.graph_tools.ir.weights import Weights
    from onnx_attribution.graph_tools.programs.head import Head
    from onnx_attribution.server.engine import Engine

PROVEN = 3
"""Images at which the new file is compared with the old one."""
LEAST = 4
"""Classes of which one can be held out."""


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
    classes: Annotated[
        Path,
        typer.Option(
            metavar="FILE.csv",
            help="Descriptions: class,seen,attribute,...; one row a class, seen is its output index, or empty.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE",
            help="Samples as the network takes them, as in audit; of any classes, labels are not needed.",
        ),
    ],
    add: Annotated[
        str, typer.Option(metavar="NAMES", help="The classes to add, between commas; they are in the csv.")
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

    names = [name.strip() for name in add.split(",") if name.strip()]
    if not names:
        raise InvalidArgument("--add names no class")
    check_out(file, out, force)
    check_places(report, None)
    require_apart(
        {"--output": out, "--report": report},
        {"FILE": file, "--importance": importance, "--classes": classes, "--images": images},
    )
    table, record = read_classes(classes), Importance.load(importance)
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
        require_fitting(record, info, engine.layers(name, ""), layer, str(importance))
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
        phi, features = _features(engine, name, found, samples, info)
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
        known = _known(found, record, table, depends, phi, notes)
        shown = _shown(known, notes)
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
        _write(model, found, old, made, told, out, proven, shapes)
    if report is not None:
        _put(report, told)
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


def _features(
    engine: Engine, model: str, head: Head, samples: Sequence[Mapping[str, Array]], info: ModelInfo
) -> tuple[NDArray[np.float64], Features]:
    """The features of each sample, the mean over positions, and what tensor they are."""
    count = head.weight.shape[1]
    features = Features(head.features, count, head.feature_axis, head.rank)
    found, positions = [], 1
    for sample in samples:
        values = engine.predict(model, sample, [head.features])[head.features]
        if info.batch == "single" and values.ndim == head.rank + 1:
            values = values[0]
        positions = values.size // count
        found.append(features.mean(values).mean(axis=0))
        if not np.isfinite(found[-1]).all():
            raise InvalidArgument(
                f"at image {len(found) - 1} of --images the features {head.features!r} are not finite; leave it out"
            )
    return np.stack(found), Features(head.features, count, head.feature_axis, head.rank, positions)


def _known(
    head: Head,
    record: Importance,
    table: Classes,
    depends: Dependence,
    phi: NDArray[np.float64],
    notes: list[str],
) -> algorithm.Known:
    """What is known of the classes that have a description, weights and images."""
    seen = [index for index in table.seen if index is not None]
    measured = [int(one) for one in record.classes]
    if beyond := [one for one in measured if one >= head.classes]:
        raise InvalidArgument(
            f"the importance is of class {beyond[0]}, and the head {head.node!r} has {head.classes} classes"
        )
    indices = sorted(set(seen) & set(measured))
    if len(indices) < LEAST:
        raise InvalidArgument(
            f"{table.file} and the importance have {len(indices)} classes in common; what is chosen is chosen on "
            f"classes held out of them, for which {LEAST} at least are needed"
        )
    for without, what in (
        (set(measured) - set(seen), "description"),
        (set(seen) - set(measured), "importance"),
    ):
        if without:
            numbers = ", ".join(map(str, sorted(without)[:5])) + ", ..." * (len(without) > 5)
            notes.append(f"{len(without)} classes have no {what} and teach nothing: {numbers}")
    if (units := depends.M.shape[1]) != record.alpha.shape[1]:
        raise InvalidArgument(
            f"the importance is of {record.alpha.shape[1]} units, and the layer {record.layer!r} has {units}; measure "
            "it anew with `onnx-attribution importance`"
        )
    logits = phi @ head.weight[indices].T + head.bias[indices]
    labels = logits.argmax(axis=1)
    M_labels = np.full(len(depends.M), -1)
    if depends.kind == "varying":
        M_labels = labels[list(depends.images)]
    return algorithm.Known(
        table.described(indices),
        mean_of_units(record.alpha.astype(np.float64), record.labels, indices),
        head.weight[indices],
        head.bias[indices],
        depends.M,
        M_labels,
        phi,
        labels,
    )


def _shown(known: algorithm.Known, notes: list[str]) -> algorithm.Known:
    """The classes that the network sees in the images: only of these it can be tried what holding them out does.

    Raises:
        InvalidArgument: there are too few.
    """
    rows, labels = np.unique(known.labels, return_inverse=True)
    if len(rows) < LEAST:
        raise InvalidArgument(
            f"the network takes the images for {len(rows)} of the {len(known.weights)} classes that are known; what is "
            f"chosen is chosen on classes held out of them, for which {LEAST} at least are needed: give images of more"
        )
    if len(rows) == len(known.weights):
        return known
    notes.append(
        f"the network takes the images for {len(rows)} of the {len(known.weights)} known classes; only those are held "
        "out to choose by: images of all would be better"
    )
    place = np.full(len(known.weights) + 1, -1)
    place[rows] = np.arange(len(rows))
    return replace(
        known,
        attributes=known.attributes[rows],
        importance=known.importance[rows],
        weights=known.weights[rows],
        offsets=known.offsets[rows],
        M_labels=place[known.M_labels],
        labels=labels,
    )


def told_of(
    file: str,
    info: ModelInfo,
    head: Head,
    record: Importance,
    table: Classes,
    depends: Dependence,
    names: Sequence[str],
    choice: algorithm.Choice,
    made: algorithm.Added,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """What the report says."""
    from onnx_attribution import __version__

    return {
        "source": {"file": Path(file).name, "sha256": info.digest},
        "tool": f"onnx-attribution {__version__}",
        "layer": record.layer,
        "head": {
            "node": head.node,
            "operator": head.operator,
            "features": head.features,
            "logits": head.logits,
        },
        "classes": [
            {
                "name": name,
                "index": head.classes + k,
                "cosine": float(made.cosine[k]),
                "bias": float(made.offsets[k]),
                "norm": float(np.linalg.norm(made.weights[k])),
            }
            for k, name in enumerate(names)
        ],
        "chosen": asdict(choice),
        "known": sum(index is not None for index in table.seen),
        "attributes": list(table.attributes),
        "M": {"kind": depends.kind, "images": len(depends.images)},
        "warnings": list(dict.fromkeys([*warnings, *record.warnings])),
    }


def _write(
    model: onnx.ModelProto,
    head: Head,
    old: Sequence[str],
    made: algorithm.Added,
    told: Mapping[str, Any],
    out: Path,
    proven: Sequence[tuple[Mapping[str, Array], NDArray[np.float64]]],
    shapes: Mapping[str, tuple[int | str | None, ...]],
) -> None:
    """Writes the file, once it is proven that it says what the old one says."""
    from onnx_attribution.graph_tools.programs.export import save
    from onnx_attribution.graph_tools.programs.head import ADDED, CLASSES, widened
    from onnx_attribution.server.engine.added import require_same

    names = [one["name"] for one in told["classes"]]
    earlier = [text.loads(one.value) for one in model.metadata_props if one.key == ADDED]
    own = {key: value for key, value in told.items() if key != "warnings"}
    metadata = {
        CLASSES: text.dumps(
            {tensor: [*old, *names] for tensor in dict.fromkeys((head.logits, *head.scored))},
            ensure_ascii=False,
        ),
        ADDED: text.dumps([*(earlier[0] if earlier else []), own], ensure_ascii=False),
    }
    changed = widened(model, head, names, made.weights, made.offsets, metadata, shapes)
    require_same(model, changed, head, made.weights, made.offsets, proven)
    try:
        save(changed, out)
    except OSError as error:
        raise InvalidArgument(f"{str(out)!r} cannot be written: {error.strerror or error}") from error


def _old_names(head: Head, info: ModelInfo, table: Classes) -> list[str]:
    """What the classes of the network are called: as its card says, else as the table does, else by their indices."""
    told = [each for each in info.class_names.values() if len(each) == head.classes]
    if told:
        return list(told[0])
    by_index = {index: name for name, index in zip(table.names, table.seen, strict=True) if index is not None}
    return [by_index.get(k, str(k)) for k in range(head.classes)]


def _put(path: Path, told: Mapping[str, Any]) -> None:
    try:
        path.write_text(text.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def print_added(out: Path, told: Mapping[str, Any]) -> None:
    """The table of `add-class`."""
    screen, chosen, head = output.console(), told["chosen"], told["head"]
    screen.print(
        escape(
            f"{out}: {len(told['classes'])} classes at {head['node']}, by the importance of {told['layer']}"
        ),
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class", overflow="fold")
    for word in ("index", "cosine", "bias"):
        table.add_column(word, justify="right")
    for one in told["classes"]:
        table.add_row(
            escape(one["name"]), str(one["index"]), output.number(one["cosine"]), output.number(one["bias"])
        )
    screen.print(table)
    screen.print(
        f"chosen on {chosen['folds']} sets of known classes held out: pull {output.number(chosen['pull'])}, ridge "
        f"{output.number(chosen['ridge'])}, share {output.number(chosen['share'])}; there the harmonic mean of "
        f"accuracies was {output.number(chosen['harmonic'])} "
        f"(p {output.number(chosen['p'])} beside shuffled descriptions)",
        soft_wrap=True,
    )
    for warning in told["warnings"]:
        screen.print(f"[yellow]warning[/]: {escape(warning)}", soft_wrap=True)

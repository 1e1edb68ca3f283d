"""`intervene FILE`: what the target is with activations removed, set, scaled or patched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.markup import escape

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.interventions import MEAN, Edit, Intervened, Patch
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Place, asking
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.files import read_file
from onnx_attribution.server.cli.inputs import parse_rows, read_inputs, read_parts
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.samples import Parts, taken
from onnx_attribution.server.cli.target import parse_target, split_tensor
from onnx_attribution.values import Preprocessing, TensorInfo


@bundled()
def intervene(
    *,
    edit: Annotated[
        list[str],
        typer.Option(
            metavar="LAYER[:INDEX][=VALUE]",
            help="conv1:3 removes channel 3, conv1:3=1.5 sets it, conv1:3=*0.5 scales it, conv1=@FILE takes it from a "
            "file, conv1:3=mean is its mean over the donors, conv1=patch what it is in the donor of the same number, "
            "conv1=patch1 in donor 1. Repeatable: each by itself.",
        ),
    ],
    together: Annotated[
        bool,
        typer.Option("--together", help="All edits at once, in their order, in place of each by itself."),
    ] = False,
    input: Annotated[
        options.Many,
        typer.Option(
            metavar="[NAME=]FILE", help="As for explain; default: the example beside the model. Repeatable."
        ),
    ] = None,
    donors: Annotated[
        options.Many,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Inputs from which means and patches are taken; default: the input itself. Repeatable.",
        ),
    ] = None,
    target: options.Target = None,
    minus: options.Minus = None,
    logit: options.Logit = False,
    mean_centred: options.MeanCentred = False,
    rows: options.Rows = None,
    place: Place,
    json: options.Json = False,
) -> None:
    """Says what the target is where activations of layers are removed, set, scaled, or patched from another input."""
    wanted = parse_rows(rows) if rows is not None else None
    picture = Picture()

    def read(infos: Sequence[TensorInfo], said: Mapping[str, Preprocessing]) -> Parts:
        return read_parts(input or [], infos, replace(picture, said=said))

    with asking(place, read) as asker:
        info = asker.info()
        picture = replace(picture, said=info.preprocessing)
        known = {one.name: one for one in info.inputs}
        if not input and (arrays := asker.example()):
            picture.note("no --input is given: the example beside the model is taken")
            arrays = taken(arrays, known, info.batch, wanted)
        else:
            arrays = read_inputs(input or [], info.inputs, picture, wanted, info.batch)
        others = read_inputs(donors, info.inputs, picture, None, info.batch) if donors else None
        names = {*known, *(one.name for one in info.outputs), *(one.name for one in asker.layers(""))}
        edits = [parse_edit(text, names) for text in edit]
        asked = replace(
            parse_target(target or [], minus or [], [one.name for one in info.outputs]),
            logit=logit,
            mean_centred=mean_centred,
        )
        engine, name = asker.asked
        found = engine.intervene(name, arrays, [edits] if together else edits, target=asked, donors=others)
    found = replace(found, warnings=(*found.warnings, *picture.notes))
    texts = [" + ".join(edit)] if together else edit
    if json:
        output.print_json(_object(texts, found))
        return
    _print(place.model, texts, found)


def parse_edit(text: str, layers: Collection[str]) -> Edit:
    """The edit of `LAYER`, `LAYER:INDEX`, `LAYER=VALUE` or `LAYER:INDEX=VALUE`; layers may have = in their names.

    Raises:
        InvalidArgument: the value has none of the forms of an edit.
    """
    if text in layers:
        return Edit(text)
    where, sign, value = text.rpartition("=")
    if not sign:
        where, value = text, "0"
    layer, at = (where, None) if where in layers else split_tensor(where, layers)
    if layer is None:
        raise InvalidArgument(f"--edit {text!r} names no layer; write LAYER:INDEX=VALUE, such as conv1:3=0")
    given: Any = at
    if value == MEAN:
        return Edit(layer, given, MEAN)
    if value.startswith("patch"):
        row = value.removeprefix("patch")
        return Edit(layer, given, Patch(int(_number(text, row)) if row else None))
    if value.startswith("@"):
        return Edit(layer, given, read_file(value[1:], None, Picture()))
    if value.startswith("*"):
        return Edit(layer, given, scale=_number(text, value[1:]))
    return Edit(layer, given, _number(text, value))


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidArgument(
            f"--edit {text!r}: {value!r} is no number; a value is a number, *NUMBER, mean, patch, patch0 or @FILE"
        ) from None


def _object(edits: Sequence[str], found: Intervened) -> dict[str, object]:
    """The object of `intervene --json`; lists hold one entry a sample."""
    target = found.target
    return {
        "batch": found.batch,
        "target": {
            "tensor": target.tensor,
            "index": target.index,
            "label": target.labels or None,
            "value": target.value,
        },
        "largest": found.largest_before,
        "interventions": [
            {"edit": text, "value": value, "change": value - target.value, "largest": largest}
            for text, value, largest in zip(edits, found.values, found.largest, strict=True)
        ],
        "evaluations": found.evaluations,
        "seconds": round(found.seconds, 6),
        "provider": found.provider,
        "digest": found.digest,
        "warnings": found.warnings,
    }


def _print(model: str, edits: Sequence[str], found: Intervened) -> None:
    """The table of `intervene`."""
    out = output.console()
    out.print(
        f"interventions on {escape(model)}: {found.evaluations} evaluations, {found.seconds:.2f} s on "
        f"{found.provider}, batch {found.batch}"
    )
    columns = ("edit", "sample", "target", "without", "with", "change", "largest")
    table = output.table(*columns, right=range(3, len(columns)))
    for text, values, largest in zip(edits, found.values, found.largest, strict=True):
        for k, (value, top) in enumerate(zip(values, largest, strict=True)):
            before, was = found.target.value[k], found.largest_before[k]
            turned = "-" if top < 0 else f"{was} -> {top}" if top != was else str(top)
            index = f"{found.target.tensor}[{found.target.index[k]}]"
            numbers = map(output.number, (before, value, value - before))
            table.add_row(escape(text), str(k), escape(index), *numbers, turned)
    out.print(table)
    output.print_warnings(out, found.warnings)

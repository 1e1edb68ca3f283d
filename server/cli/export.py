"""`expose FILE` and `gradient FILE`: models that run in plain onnxruntime."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import quiet
from onnx_attribution.server.cli.inputs import axes_of, shapes_of
from onnx_attribution.server.cli.target import parse_target
from onnx_attribution.values import TensorInfo

if TYPE_CHECKING:
    from onnx_attribution.server.engine.export import Exported


File = Annotated[str, typer.Argument(metavar="FILE", help="The .onnx file.")]
Out = Annotated[Path, typer.Option("--output", "-o", metavar="OUT.onnx", help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT.onnx if it exists.")]
LAYER = "Tensor, node, torch's module, or a unique end or glob of one. Repeatable."


def expose(
    file: File,
    layer: Annotated[list[str], typer.Option(metavar="NAME", help=LAYER)],
    out: Out,
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Writes the same model with hidden tensors as outputs, after its own and by their names.

    Nothing else of it changes. Weights in files beside it are written into OUT.onnx, or beside that where all take more
    than 2 GB. Functions are inlined where a layer lies in one.
    """
    from onnx_attribution.server.engine.backend import Backend
    from onnx_attribution.server.engine.export import exposed_model

    check_out(file, out, force)
    with quiet():
        found = exposed_model(file, layer, Backend("cpu"))
    beside = saved(found, out)
    tell(file, out, found, beside, [], json)


def gradient(
    file: File,
    out: Out,
    layer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"{LAYER} Default: the float inputs.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TENSOR:]INDEX",
            help="As for explain, one for all samples. Without an index, `target/weight` of the target's shape becomes "
            "an input: 1 at what is explained, 0 elsewhere.",
        ),
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option(metavar="INDEX", help="Subtracted from the target.")
    ] = None,
    logit: options.Logit = False,
    mean_centred: options.MeanCentred = False,
    force: Force = False,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    json: options.Json = False,
) -> None:
    """Writes the model with its gradient appended: inputs and outputs keep their names, and new outputs are
    `gradient/NAME`, of the layer's shape, and `target/value`, one number a sample.

    The model is brought to opset 21 and its functions are inlined; its batch is kept, and freed where samples of a file
    of fixed batch can share a run. Where they cannot, the inputs have room for one.
    """
    from onnx_attribution.server.engine.backend import Backend
    from onnx_attribution.server.engine.export import gradient_model, plain_told
    from onnx_attribution.server.engine.models.loaded import LoadedModel

    check_out(file, out, force)
    with quiet():
        model = LoadedModel(file, Backend("cpu"), axes_of(batch_axis or []), shapes_of(shape or []))
        asked = parse_target(target or [], minus or [], [one.name for one in model.outputs])
        found = gradient_model(model, layer or (), replace(asked, logit=logit, mean_centred=mean_centred))
        beside = saved(found, out)
        warning, note = plain_told(model, found, out, Path(file))
    tell(file, out, found, [*beside, *filter(None, [note])], [*filter(None, [warning])], json)


def check_out(file: str, out: Path, force: bool) -> None:
    """Refuses what could not be written, or would replace something, before anything is computed."""
    from onnx_attribution.graph_tools.programs.export import data_file
    from onnx_attribution.graph_tools.read.load import files_of

    if out.is_dir() or not out.resolve().parent.is_dir():
        raise InvalidArgument(f"{str(out)!r} cannot be written: no such folder, or a folder itself")
    there = [path for path in (out, data_file(out)) if os.path.lexists(path)]
    own = [path for path in (files_of(Path(file)) if there and Path(file).is_file() else ()) if path.exists()]
    for path in there:
        if path.exists() and not path.is_file():
            raise InvalidArgument(f"{str(path)!r} cannot be replaced: it is no regular file")
        if path.exists() and any(path.samefile(each) for each in own):
            what = "is the model itself" if path.samefile(file) else "holds weights of the model"
            raise InvalidArgument(f"{str(path)!r} {what}; name another file than {str(out)!r}")
        if not force:
            raise InvalidArgument(f"{str(path)!r} exists; --force replaces it")


def saved(found: Exported, out: Path) -> list[str]:
    """Writes the file; returns a note where its weights are in another one."""
    from onnx_attribution.graph_tools.programs.export import save

    try:
        beside = save(found.model, out)
    except OSError as error:
        raise InvalidArgument(f"{str(out)!r} cannot be written: {error.strerror or error}") from error
    return [f"the weights are in {beside.name!r} beside it"] if beside else []


def tell(file: str, out: Path, found: Exported, beside: list[str], warnings: list[str], json: bool) -> None:
    from onnx_attribution.server.cli.asker import described

    graph = found.model.graph
    ends: dict[str, list[TensorInfo]] = {
        "input": [described(value) for value in graph.input],
        "output": [described(value) for value in graph.output],
    }
    notes = [*found.notes, *beside]
    if json:
        told = {f"{word}s": [asdict(one) for one in infos] for word, infos in ends.items()}
        output.print_json(
            {
                "file": file,
                "written": str(out),
                "layers": found.tensors,
                **told,
                "notes": notes,
                "warnings": warnings,
            }
        )
        return
    screen = output.console()
    for word, infos in ends.items():
        for one in infos:
            shape = "" if "(" in one.dtype else " " + output.shape_text(one.shape)  # a map has none
            screen.print(f"{word} {escape(one.name)}: {escape(one.dtype + shape)}")
    output.print_warnings(screen, warnings)
    for note in notes:
        screen.print(f"note: {escape(note)}", soft_wrap=True)

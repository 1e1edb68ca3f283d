"""`build FILE`: one model that attributes by itself, for any runtime of ONNX models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import DEFAULT, make, registered
from onnx_attribution.register import unknown
from onnx_attribution.server.cli import options
from onnx_attribution.server.cli.asker import quiet
from onnx_attribution.server.cli.export import LAYER, File, Force, check_out, saved, tell
from onnx_attribution.server.cli.inputs import axes_of, read_baselines, shapes_of
from onnx_attribution.server.cli.method import Given, parsed, with_parameters
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.target import parse_target

if TYPE_CHECKING:
    import onnx

Many = list[str] | None
TYPES = {"FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16", "BFLOAT16": "BF16"}
"""What Triton calls the types that it does not call as ONNX does."""


@with_parameters
def build(
    file: File,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT.onnx", help="The file to write.")
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also, or in place of OUT.onnx, a model of Triton's: DIR/config.pbtxt and DIR/1/model.onnx.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="METHOD", help=f"One of {', '.join(registered())}; hyphens will do."),
    ] = DEFAULT.name,
    layer: Annotated[Many, typer.Option(metavar="NAME", help=f"{LAYER} Default: the sources.")] = None,
    source: Annotated[
        Many,
        typer.Option(
            metavar="NAME",
            help="Where the path lives; default: embeddings of tokens, else the float inputs. Repeatable.",
        ),
    ] = None,
    target: Annotated[
        Many,
        typer.Option(
            metavar="[TENSOR:]INDEX",
            help="As for explain, one for all samples. Without an index the input `target` takes one for each sample: "
            "int64 [samples], or [samples, axes] where a sample's target has several axes.",
        ),
    ] = None,
    target_weights: Annotated[
        bool,
        typer.Option(
            "--target-weights",
            help="In place of an index, the input `target/weight` of the target's shape: 1 at what is explained.",
        ),
    ] = False,
    minus: Annotated[Many, typer.Option(metavar="INDEX", help="Subtracted from the target.")] = None,
    logit: options.Logit = False,
    mean_centred: options.MeanCentred = False,
    baseline: Annotated[
        Many,
        typer.Option(
            metavar="[NAME=]FILE|NUMBER",
            help="Holds for all samples. Without it `baseline/NAME` is an input: one row for all samples, or one each.",
        ),
    ] = None,
    steps_input: Annotated[
        bool,
        typer.Option("--steps-input", help="The number of steps is the input `steps`, int64 [1], not fixed."),
    ] = False,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop",
            help="One step of the path after the other, within the run: the memory of one pass.",
        ),
    ] = False,
    spectral: Annotated[
        bool,
        typer.Option(
            "--spectral",
            help="In place of --quadrature: Chebyshev nodes, of which smooth networks (GELU, tanh, softmax) need a few "
            "only. With --steps 2, 4, 8, 16, 32 or 64.",
        ),
    ] = False,
    float32: Annotated[
        bool,
        typer.Option(
            "--float32",
            help="In float32 what the model computes in float64, which WebGPU has not; it says how far that moves "
            "the attributions.",
        ),
    ] = False,
    force: Force = False,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    json: options.Json = False,
    parameters: Given = (),
) -> None:
    """Writes a model that attributes by itself: it runs in plain onnxruntime, in a browser with onnxruntime-web, and in
    any runtime with the operators of ONNX, without this package.

    Inputs are those of the model by their names, `baseline/NAME`, `target` and `steps`, unless they are fixed; outputs
    `attribution/LAYER` in the layer's shape and, one number a sample, `target/value`, `target/baseline`,
    `residual/LAYER` and `error_estimate/LAYER`.
    """
    import onnx_attribution.server.engine.methods  # noqa: F401  # whose recipes are asked for
    from onnx_attribution.server.engine.backend import Backend
    from onnx_attribution.server.engine.export import plain_told
    from onnx_attribution.server.engine.models.loaded import LoadedModel
    from onnx_attribution.server.engine.single import moved, single_model
    from onnx_attribution.server.engine.standalone import Standalone, example_of, standalone_model

    places = _places(out, triton)
    for place in places:
        if triton is None or place != _model_of(triton):
            check_out(file, place, force)
    if triton is not None:
        _check_folder(file, triton, force)
    name = method.replace("-", "_")
    if name not in registered():
        raise unknown(name, registered())
    with quiet():
        axes, sizes = axes_of(batch_axis or []), shapes_of(shape or [])
        single = single_model(file, Backend("cpu"), axes, sizes) if float32 else None
        model = single or LoadedModel(file, Backend("cpu"), axes, sizes)
        given = parsed(name, parameters, (), model.inputs)
        if steps_input and "steps" in given:
            raise InvalidArgument("--steps fixes what --steps-input makes an input: give one of them")
        if spectral and "quadrature" in given:
            raise InvalidArgument("--spectral takes the place of --quadrature: give one of them")
        asked = parse_target(target or [], minus or [], [one.name for one in model.outputs])
        if target_weights and asked.index is not None:
            raise InvalidArgument("--target-weights takes the place of an index: give one of them")
        known = source or (model.sources((), model.first_target()) if baseline else ())
        fixed = read_baselines(baseline or [], known, model.inputs, Picture(said=model.card.preprocessing))
        wish = Standalone(
            make(name, given),
            layer or (),
            source or (),
            replace(asked, logit=logit, mean_centred=mean_centred),
            target_weights,
            fixed,
            steps_input,
            loop,
            spectral,
            float32,
        )
        found = standalone_model(model, wish)
        precision = moved(file, model.backend, axes, sizes, wish, found) if single else ""
        if triton is not None:
            _model_of(triton).parent.mkdir(parents=True, exist_ok=True)
        beside = [note for place in places for note in saved(found, place)]
        if triton is not None:
            (triton / "config.pbtxt").write_text(config(triton.resolve().name, found.model), encoding="utf-8")
        warning, note = plain_told(model, found, places[0], Path(file), example_of(model, found))
    notes = [*dict.fromkeys(beside), *filter(None, [note, precision])]
    tell(file, places[0], found, notes, [*filter(None, [warning])], json)


def _places(out: Path | None, triton: Path | None) -> list[Path]:
    """The model files to write."""
    places = [place for place in (out, triton and _model_of(triton)) if place]
    if not places:
        raise InvalidArgument("nothing is to be written: name a file, -o OUT.onnx, or a folder, --triton DIR")
    return places


def _model_of(triton: Path) -> Path:
    return triton / "1" / "model.onnx"


def _check_folder(file: str, triton: Path, force: bool) -> None:
    """Refuses a folder that could not be written, or would lose something."""
    model = _model_of(triton)
    if model.parent.is_dir():
        check_out(file, model, force)
    elif model.parent.exists() or (triton.exists() and not triton.is_dir()):
        raise InvalidArgument(f"{str(triton)!r} cannot be written: it is no folder of models")
    elif not triton.resolve().parent.is_dir():
        raise InvalidArgument(f"{str(triton)!r} cannot be written: no such folder as its parent")
    if (triton / "config.pbtxt").exists() and not force:
        raise InvalidArgument(f"{str(triton / 'config.pbtxt')!r} exists; --force replaces it")


def config(name: str, model: onnx.ModelProto) -> str:
    """Triton's configuration of a model whose shapes are whole: the number of samples is the first size, not Triton's
    own batch, which would add the rows of requests whose steps differ."""
    ends = "".join(
        f"{word} [\n" + ",\n".join(_entry(value) for value in values) + "\n]\n"
        for word, values in (("input", model.graph.input), ("output", model.graph.output))
    )
    return f'name: "{name}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 0\n{ends}'


def _entry(value: onnx.ValueInfoProto) -> str:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type)
    sizes: Sequence[int] = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    shape = f"dims: [ {', '.join(map(str, sizes))} ]" if sizes else "dims: [ 1 ] reshape { shape: [ ] }"
    return f'  {{ name: "{value.name}" data_type: TYPE_{TYPES.get(kind, kind)} {shape} }}'

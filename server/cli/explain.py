"""`explain FILE`: attributions of one file's layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import DEFAULT, MethodInfo, info_of, make, registered
from onnx_attribution.register import unknown
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Asker, Place, asking
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.dataset import read_labelled
from onnx_attribution.server.cli.explained import explained_json, print_explained
from onnx_attribution.server.cli.inputs import (
    parse_rows,
    read_baselines,
    read_inputs,
    read_parts,
    read_references,
)
from onnx_attribution.server.cli.method import Given, parsed, with_parameters
from onnx_attribution.server.cli.named import names_of
from onnx_attribution.server.cli.pictures import FLOATS, Picture
from onnx_attribution.server.cli.progress import progress
from onnx_attribution.server.cli.samples import Parts, count_of, taken
from onnx_attribution.server.cli.target import parse_target
from onnx_attribution.server.cli.written import check_places, draw_answer, write_npz
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    Baseline,
    Completed,
    ModelInfo,
    Preprocessing,
    Progress,
    Revision,
    TensorInfo,
)

MAX_SAMPLES = 256  # of the engine, which is not imported for a text of help


@with_parameters
@bundled()
def explain(
    *,
    input: Annotated[
        options.Many,
        typer.Option(
            metavar="[NAME=]FILE",
            help="npy, npz[:KEY], json or a picture; FILE[0:4] takes rows of its first axis; NAME=VALUE for single "
            "values, NAME=5.1,3.5 for a row of numbers. Repeatable: files of one input become one batch.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="In place of --input: a data set as of the command audit, a folder, npz or parquet file.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="METHOD", help=f"One of {', '.join(registered())}; hyphens will do."),
    ] = DEFAULT.name,
    layer: Annotated[
        options.Many,
        typer.Option(
            metavar="NAME",
            help="Tensor, node, torch's module, or a unique end or glob of one; '*': all activations, pools, norms and "
            "residual additions, '**': every float tensor. Repeatable.",
        ),
    ] = None,
    source: options.Source = None,
    target: options.Target = None,
    each_target: Annotated[
        options.Many,
        typer.Option(
            metavar="[TENSOR:]INDEX",
            help="In place of --target: each is a target of its own, for all samples. Repeatable.",
        ),
    ] = None,
    minus: options.Minus = None,
    logit: options.Logit = False,
    mean_centred: options.MeanCentred = False,
    baseline: options.Baseline = None,
    references: Annotated[
        options.Many,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Several baselines, averaged over: [references, ...], or [samples, references, ...].",
        ),
    ] = None,
    sums_only: Annotated[
        bool, typer.Option("--sums-only", help="Sums of layers without the values of their units.")
    ] = False,
    parameter: Annotated[
        options.Many,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of a method of the server's that has no option here; numbers and lists as JSON. Repeatable.",
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="3|0:3",
            help=f"Only these samples of the inputs; a request holds at most {MAX_SAMPLES}, each counted once for "
            "every reference and every target.",
        ),
    ] = None,
    picture: Picture,
    out: Annotated[
        Path | None, typer.Option("--output", metavar="OUT.npz", help="One array a layer, by its name.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="A picture of the attributions.")
    ] = None,
    names: options.Names = None,
    place: Place,
    json: options.Json = False,
    parameters: Given = (),
) -> None:
    """Says how much each unit of the chosen layers contributes to the target, for each sample of the inputs."""
    wanted_rows = parse_rows(rows) if rows is not None else None
    question = Question(
        method.replace("-", "_").lower(), tuple(layer or ()), tuple(source or ()), tuple(target or ()),
        tuple(each_target or ()), tuple(minus or ()), tuple(baseline or ()), tuple(references or ()), logit,
        mean_centred, parameters, tuple(parameter or ()), sums_only,
    )  # fmt: skip
    if sums_only and (out is not None or plot is not None):
        raise InvalidArgument(f"--sums-only leaves no arrays for --{'output' if out is not None else 'plot'}")
    check_places(out, plot)
    calls = names_of(names, picture.note)

    given = input or []
    if given and data is not None:
        raise InvalidArgument("give --input or --data, not both")

    def read(infos: Sequence[TensorInfo], said: Mapping[str, Preprocessing]) -> Parts:
        return read_parts(given, infos, replace(picture, said=said))

    with asking(place, read) as asker:
        info, about, named = asker.info(), _method(asker, question.method), calls(asker)
        picture = replace(picture, said=info.preprocessing)
        if data is not None:
            arrays, _ = read_labelled(data, info, picture, wanted_rows)
        elif not given and (arrays := asker.example()):
            picture.note("no --input is given: the example beside the model is explained")
            arrays = taken(arrays, {one.name: one for one in info.inputs}, info.batch, wanted_rows)
        else:
            arrays = read_inputs(given, info.inputs, picture, wanted_rows, info.batch)
        request = question.request(info, about, arrays, picture)
        with _telling_of_rows(count_of(arrays, info.inputs, info.batch)):
            answer = _answer(asker, request)
    answer = replace(answer, warnings=(*answer.warnings, *picture.notes))
    if out is not None:
        write_npz(out, {name: one.values for name, one in answer.layers.items()})
    if plot is not None:
        draw_answer(plot, answer, arrays, info, picture, question.baseline, named)
    if json:
        output.print_json(explained_json(answer, named))
        return
    print_explained(place.model, answer, named)


@dataclass(frozen=True)
class Question:
    """The options that make a request, once the model's inputs are known."""

    method: str
    layers: tuple[str, ...]
    source: tuple[str, ...]
    target: tuple[str, ...]
    each_target: tuple[str, ...]
    minus: tuple[str, ...]
    baseline: tuple[str, ...]
    references: tuple[str, ...]
    logit: bool
    mean_centred: bool
    parameters: Given
    others: tuple[str, ...]
    sums_only: bool = False

    def request(
        self, info: ModelInfo, about: MethodInfo, arrays: Mapping[str, Array], picture: Picture
    ) -> AttributionRequest:
        if self.target and self.each_target:
            raise InvalidArgument("give --target or --each-target, not both", reason=Reason.TARGET_INVALID)
        outputs = [one.name for one in info.outputs]
        alone: list[tuple[str, ...]] = [(text,) for text in self.each_target]
        targets = [
            replace(
                parse_target(texts, self.minus, outputs), logit=self.logit, mean_centred=self.mean_centred
            )
            for texts in alone or [self.target]
        ]
        given = parsed(self.method, self.parameters, self.others, info.inputs)
        if about.needs_derivatives:
            sources = self.source or tuple(_default_sources(info, targets[0].tensor))
        else:
            named = [name for value in given.values() if isinstance(value, Mapping) for name in value]
            sources = self.source or self.layers or tuple(dict.fromkeys(named)) or _own_inputs(info)
        return AttributionRequest(
            model=info.name,
            inputs=arrays,
            method=make(self.method, given),
            layers=self.layers,
            source=self.source,
            target=None if self.each_target else targets[0],
            targets=targets if self.each_target else None,
            baselines=self._baselines(sources, info, picture),
            sums_only=self.sums_only,
        )

    def _baselines(self, sources: Sequence[str], info: ModelInfo, picture: Picture) -> dict[str, Baseline]:
        one = read_baselines(self.baseline, sources, info.inputs, picture)
        several = read_references(self.references, sources, info.inputs, picture)
        for name in one.keys() & several.keys():
            raise InvalidArgument(
                f"{name!r} has both --baseline and --references", reason=Reason.BASELINE_INVALID
            )
        return {**one, **several}


def _own_inputs(info: ModelInfo) -> tuple[str, ...]:
    """The inputs of which each sample has its own; all, where samples are run one by one."""
    return tuple(one.name for one in info.inputs if one.batch_axis is not None or info.batch == "single")


def _default_sources(info: ModelInfo, target: str | None) -> Sequence[str]:
    """What a baseline alone is for: the sources of the first output, which are known; else the float inputs.

    A float input that does not lead to the target is then refused by name, where silence would drop a baseline.
    """
    first = next((one.name for one in info.outputs if one.dtype in FLOATS), None)
    inputs = {one.name for one in info.inputs}
    if target in (None, first) or not inputs.issuperset(info.sources):
        return info.sources
    return [one.name for one in info.inputs if one.dtype in FLOATS] or info.sources


def _method(asker: Asker, name: str) -> MethodInfo:
    """What is known of the method where the model is. Raises: InvalidArgument for one that is not there."""
    known = {one.name: one for one in asker.methods()}
    if name in known:
        return known[name]
    if name in registered():  # whoever evaluates it says what is wrong with it
        return info_of(registered()[name])
    raise unknown(name, known)


@contextlib.contextmanager
def _telling_of_rows(samples: int) -> Iterator[None]:
    """Adds to the refusal of too many samples how to choose some of them."""
    try:
        yield
    except InvalidArgument as error:
        if error.reason != Reason.REQUEST_TOO_LARGE or samples < 2:
            raise
        limit, actual = (int(error.metadata.get(word, 0)) for word in ("limit", "actual"))
        fitting = max(limit * samples // actual, 1) if limit and actual else 1
        raise error.reworded(
            f"{error.message}: --rows takes some of them, such as --rows 0:{fitting}"
        ) from error


def _answer(asker: Asker, request: AttributionRequest) -> Attribution:
    """The best revision; on a terminal with a line of progress."""
    revisions: dict[int, Attribution] = {}
    best = 0
    with progress("evaluations") as report:
        for event in asker.stream(request):
            match event:
                case Progress():
                    report(event.done, event.planned, "")
                case Revision():
                    revisions[event.number] = event.attribution
                case Completed():
                    best = event.best_revision
    return revisions[best]

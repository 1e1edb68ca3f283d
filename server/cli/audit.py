"""`audit FILE`: which explanations of a model can be trusted, on a data set, as a report."""

from __future__ import annotations

import contextlib
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onnx_attribution.client.audit.data import Dataset, Item
from onnx_attribution.client.audit.requirements import parse as parse_requirement
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import Method, make, registered
from onnx_attribution.parameters import parameters_of
from onnx_attribution.register import unknown
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Asker, Place, asking
from onnx_attribution.server.cli.dataset import read_dataset
from onnx_attribution.server.cli.inputs import axes_of, parse_rows, read_baselines, shapes_of
from onnx_attribution.server.cli.login import Login
from onnx_attribution.server.cli.picture import (
    Background,
    Colour,
    Mean,
    Order,
    Resize,
    Scale,
    Std,
    picture_of,
)
from onnx_attribution.server.cli.status import FAILED, UNMET, say
from onnx_attribution.server.cli.target import split_tensor

DEFAULTS = "gradient,gradient_x_activation,integrated_gradients,deeplift_rescale"
MOST_LAYERS = 8
"""Hidden layers of a report, where none are named."""
PACKAGES = ("onnx-attribution", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "scikit-image")
FILES = ("report.json", "attributions.parquet", "report.html")
Many = list[str] | None


def audit(
    file: options.File,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE",
            help="The samples: a folder of pictures, .npy or .npz files with their labels in a csv (or in folders "
            "named by class), an .npz of arrays by input with 'labels', or a .parquet file.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the report is written, and its state kept.")
    ],
    methods: Annotated[
        str, typer.Option(metavar="NAMES", help="Methods between commas; hyphens will do.")
    ] = DEFAULTS,
    layer: Annotated[
        Many,
        typer.Option(
            metavar="NAME",
            help=f"Hidden layers for flow and neurons; default: {MOST_LAYERS} of all. Repeatable.",
        ),
    ] = None,
    source: Annotated[
        Many, typer.Option(metavar="NAME", help="Where the path lives, as in explain. Repeatable.")
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="predicted|label|[TENSOR:]INDEX", help="The class that is explained of each sample."
        ),
    ] = "predicted",
    logit: Annotated[
        bool | None,
        typer.Option(
            "--logit/--no-logit",
            help="What a final Softmax, LogSoftmax or Sigmoid is made of, in its place; default: where there is one.",
        ),
    ] = None,
    baseline: Annotated[
        Many, typer.Option(metavar="[NAME=]FILE|NUMBER", help="As in explain; default 0. Repeatable.")
    ] = None,
    parameter: Annotated[
        Many,
        typer.Option(
            metavar="METHOD.NAME=VALUE",
            help="A parameter of a method, such as neuron_ig.steps=64; numbers and lists as JSON. Repeatable.",
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="3|0:3", help="Only these samples of the data set.")
    ] = None,
    checks: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="What is tried beside completeness, between commas; all, or none."
        ),
    ] = "all",
    require: Annotated[
        Many,
        typer.Option(
            metavar="[METHOD.]METRIC<=NUMBER",
            help="What the mean of a metric must be; if it is not, or there is none, the exit status is 4. Repeatable.",
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="OLD.onnx", help="Another version of the model: what changed between both."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Of all that is drawn.")] = 0,
    anew: Annotated[bool, typer.Option("--anew", help="Begin once more, in place of going on.")] = False,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    layout: Order = None,
    colours: Colour = None,
    resize: Resize = False,
    background: Background = None,
    provider: options.Provider = "auto",
    threads: options.Threads = 0,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    server: options.Server = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token: options.Token = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Tests which explanations of a model mean something, and writes report.html, report.json, attributions.parquet.

    What is done is kept in DIR/state: an audit that was stopped goes on where it was when it is started again.
    """
    from onnx_attribution.client.audit.compare import Comparison
    from onnx_attribution.client.audit.report import summary, write_page, write_summary, write_table
    from onnx_attribution.client.audit.run import Audit, Settings
    from onnx_attribution.client.audit.state import State
    from onnx_attribution.client.audit.trials import trials_named

    chosen = methods_of(methods, parameter or [])
    wanted = [parse_requirement(text, chosen) for text in require or []]
    tried = trials_named(checks)
    picture = picture_of(scale, mean, std, layout, colours, resize, background)
    place = Place(
        model or file, server, provider, threads, axes_of(batch_axis or []), shapes_of(shape or []),
        Login(ca, certificate, key, token),
    )  # fmt: skip
    _check_folder(out)
    wanted_rows = None if rows is None else parse_rows(rows)
    with asking(place) as asker, _other(compare, place) as other:
        info = asker.info()
        picture = replace(picture, said=info.preprocessing)
        found = read_dataset(data, info, picture, wanted_rows)
        aim, tensor = _aim(target, [one.name for one in info.outputs])
        settings = Settings(
            chosen,
            layers_of(asker, layer or [], source or (), tensor),
            tuple(source or ()),
            aim,
            tensor,
            read_baselines(baseline or [], source or info.sources, info.inputs, picture),
            ", ".join(Path(text).name for text in baseline or []) or "0",
            seed,
            logit,
        )
        if other is not None:
            tried = [*tried, Comparison(other, str(compare))]
        plan = {
            "model": info.digest,
            "data": found.digest(),
            "target": target,
            "logit": logit,
            "methods": {name: repr(method)[:2000] for name, method in chosen.items()},
            "layer": list(settings.layers),
            "source": list(settings.source),
            "baseline": {name: _told(one) for name, one in settings.baselines.items()},
            "seed": seed,
            "checks": [one.name for one in tried],
            "compare": None if other is None else other.info().digest,
        }
        if anew and (out / "state").is_dir():
            shutil.rmtree(out / "state")
        run = Audit(asker, found, settings, State(out / "state", plan), tried)
        with _progress() as report:
            run.run(report)
        told = summary(
            run,
            {
                "versions": _versions(asker),
                "command": shlex.join(["onnx-attribution", *without_secrets(sys.argv[1:])]),
                "started": run.state.begun.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            wanted,
        )
        write_summary(told, out / FILES[0])
        write_table(run, out / FILES[1])
        write_page(run, told, out / FILES[2], links=asker.links([*info.sources, *settings.layers]))
    for text in picture.notes:
        say(text)
    if run.left_out:
        name, reason = next(iter(run.left_out.items()))
        say(f"{len(run.left_out)} of {len(found)} samples are left out, such as {name}: {reason}")
    if json:
        output.print_json({name: value for name, value in told.items() if name != "items"})
    else:
        output.print_audit(told, out)
    unmet = [one for one in told["requirements"] if not one["met"]]
    for one in unmet:
        say(f"not met: {one['requirement']} for {one['method']}, which has {output.told(one['value'])}")
    if unmet:
        raise typer.Exit(UNMET)
    if not any(one["answered"] for one in told["methods"].values()):
        say(
            f"no method has an answer: {next(one['error'] for one in told['methods'].values() if one['error'])}"
        )
        raise typer.Exit(FAILED)


def _told(baseline: Any) -> Any:
    """A baseline as the plan has it: a number or text itself, of an array a SHA-256."""
    if not isinstance(baseline, np.ndarray):
        return baseline
    return Dataset("", [Item("", {"": baseline})]).digest()


def _check_folder(out: Path) -> None:
    """Raises: InvalidArgument: the report could not be written there once all is done."""
    for place in (out, out / "state"):
        if place.exists() and not place.is_dir():
            raise InvalidArgument(f"--out {str(out)!r}: {str(place)!r} is a file, and no folder", file=place)
    for name in FILES:
        if (out / name).is_dir():
            raise InvalidArgument(f"--out {str(out)!r}: {name} is a folder, and would be written", file=out)


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """The words of a command for others to read: stars in place of a token, in either form."""
    found: list[str] = []
    for text in arguments:
        name, sign, _ = text.partition("=")
        if found and found[-1] == "--token":
            text = "***"
        elif sign and name == "--token":
            text = "--token=***"
        found.append(text)
    return found


def methods_of(text: str, parameters: Sequence[str]) -> dict[str, Method]:
    """The methods by name, with their parameters. Raises: InvalidArgument: there is no such method or parameter."""
    names = [one.strip().replace("-", "_").lower() for one in text.split(",") if one.strip()]
    known = registered()
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        if name not in known:
            raise unknown(name, known)
    if not names:
        raise InvalidArgument("--methods names none", reason=Reason.PARAMETER_INVALID)
    from onnx_attribution.server.cli.method import parsed

    for one in parameters:
        place, sign, value = one.partition("=")
        method, dot, name = place.replace("-", "_").partition(".")
        if not (sign and dot):
            raise InvalidArgument(f"--parameter {one!r} is not of the form METHOD.NAME=VALUE")
        if method not in given:
            raise InvalidArgument(
                f"--parameter {one!r}: {method} is not audited; audited are {', '.join(names)}"
            )
        if name not in {each.name for each in parameters_of(known[method])}:
            listed = ", ".join(each.name for each in parameters_of(known[method]))
            raise InvalidArgument(f"--parameter {one!r}: {method} has no {name}; it has {listed}")
        given[method].update(parsed(method, (), [f"{name}={value}"], ()))
    return {name: make(name, given[name]) for name in names}


def layers_of(
    asker: Asker, given: Sequence[str], sources: Sequence[str] = (), target: str | None = None
) -> tuple[str, ...]:
    """The hidden layers by their names: those that are given, or some of all between the sources and the target, evenly
    from the first to the last."""
    info = asker.info()
    known = [one for one in asker.layers("") if one.name not in {each.name for each in info.inputs}]
    if given:
        names = []
        for text in given:
            names += [one.name for one in known if one.name == text] or [
                one.name for one in asker.layers(text) if one.name not in info.sources
            ]
            if not names:
                raise InvalidArgument(
                    f"--layer {text!r}: there is no such layer", reason=Reason.LAYER_INVALID
                )
        return tuple(dict.fromkeys(names))
    outputs = {one.name for one in info.outputs}
    kinds = [
        one.name
        for one in known
        if one.name not in outputs and one.name not in info.sources and _counts(one.operator)
    ]
    if target is not None:
        ends = sources or info.sources or [one.name for one in info.inputs]
        kinds = [name for name in kinds if _is_between(asker, name, ends, target)]
    if len(kinds) <= MOST_LAYERS:
        return tuple(kinds)
    step = (len(kinds) - 1) / (MOST_LAYERS - 1)
    return tuple(dict.fromkeys(kinds[round(k * step)] for k in range(MOST_LAYERS)))


def _is_between(asker: Asker, layer: str, sources: Sequence[str], target: str) -> bool:
    """Whether a way leads from a source by the layer to the target; of a served model nobody here knows, and it may."""
    if asker.server() is not None:
        return True
    behind, before = asker.links([layer, target]), asker.links([*sources, layer])
    return (layer, target) in behind and any(second == layer for _, second in before)


def _counts(operator: str) -> bool:
    """Whether people speak of the outputs of an operator as of a layer."""
    words = (
        "Conv",
        "Gemm",
        "MatMul",
        "LSTM",
        "GRU",
        "RNN",
        "Pool",
        "Attention",
        "Relu",
        "Normalization",
        "Add",
    )
    return any(word in operator for word in words)


def _aim(text: str, outputs: Sequence[str]) -> tuple[Any, str | None]:
    if text in ("predicted", "label"):
        return text, None
    tensor, index = split_tensor(text, outputs)
    if index is None:
        return "predicted", tensor
    if not isinstance(index, int):
        raise InvalidArgument(
            f"--target {text!r} is neither predicted, label, nor the index of a class",
            reason=Reason.TARGET_INVALID,
        )
    return index, tensor


@contextlib.contextmanager
def _other(file: Path | None, place: Place) -> Iterator[Asker | None]:
    """The other version of the model, which is a file, or the name of one on the same server."""
    if file is None:
        yield None
        return
    with asking(replace(place, model=str(file))) as other:
        yield other


def _versions(asker: Asker) -> dict[str, str]:
    """What made the numbers: the packages here, and of a server those there."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    server = asker.server()
    if server is not None:
        found["server"] = server.version
        found.update({f"server's {name}": one for name, one in server.versions.items()})
    return found


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    if not sys.stderr.isatty():
        yield lambda done, planned, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, planned, words: bar.update(task, completed=done, total=planned, description=words)

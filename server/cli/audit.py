"""`audit FILE`: which explanations of a model can be trusted, on a data set, as a report."""

from __future__ import annotations

import contextlib
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from onnx_attribution.client.audit.data import Dataset, Item
from onnx_attribution.client.audit.requirements import Requirement
from onnx_attribution.client.audit.requirements import parse as parse_requirement
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Method
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Asker, Place, asking
from onnx_attribution.server.cli.bundles import bundled
from onnx_attribution.server.cli.chosen import MOST_LAYERS, aim_of, has_derivatives, layers_of, methods_of
from onnx_attribution.server.cli.dataset import read_dataset
from onnx_attribution.server.cli.inputs import parse_rows, read_baselines
from onnx_attribution.server.cli.masks import with_masks
from onnx_attribution.server.cli.named import names_of
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.progress import progress
from onnx_attribution.server.cli.status import FAILED, UNMET, say

DEFAULTS = "gradient,gradient_x_activation,integrated_gradients,deeplift_rescale"
FREE = "occlusion,kernel_shap"
"""Methods that need no derivatives."""
PACKAGES = ("onnx-attribution", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "scikit-image")
FILES = ("report.json", "attributions.parquet", "report.html")


@bundled()
def audit(
    *,
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
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Methods between commas; hyphens will do. Default: {DEFAULTS}, or {FREE} of a model without "
            "derivatives.",
        ),
    ] = None,
    layer: Annotated[
        options.Many,
        typer.Option(
            metavar="NAME",
            help=f"Hidden layers for flow and neurons; default: {MOST_LAYERS} of all. Repeatable.",
        ),
    ] = None,
    names: options.Names = None,
    source: options.Source = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="predicted|label|[TENSOR:]INDEX",
            help="The class that is explained of each sample, or an index or region as in explain.",
        ),
    ] = "predicted",
    logit: options.LogitWhereThereIsOne = None,
    baseline: options.Baseline = None,
    parameter: Annotated[
        options.Many,
        typer.Option(
            metavar="METHOD.NAME=VALUE",
            help="A parameter of a method, such as neuron_ig.steps=64; numbers and lists as JSON. Repeatable.",
        ),
    ] = None,
    rows: options.Rows = None,
    checks: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="What is tried beside completeness, between commas; all, or none."
        ),
    ] = "all",
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:KEY]",
            help="Where in each sample the reason lies, 0 and 1: npy or npz of [samples, *positions], or an npz of "
            "masks by the names of the samples; default: an array 'masks' of --data. For the check localisation.",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="MINUTES",
            help="A check that would take longer is left out and named; a later audit with more goes on from there.",
        ),
    ] = None,
    require: Annotated[
        options.Many,
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
    picture: Picture,
    place: Place,
    json: options.Json = False,
) -> None:
    """Tests which explanations of a model mean something, and writes report.html, report.json, attributions.parquet.

    What is done is kept in DIR/state: an audit that was stopped goes on where it was when it is started again.
    """
    from onnx_attribution.client.audit.compare import Comparison
    from onnx_attribution.client.audit.report import summary, write_page, write_summary, write_table
    from onnx_attribution.client.audit.run import Audit, Settings
    from onnx_attribution.client.audit.state import State
    from onnx_attribution.client.audit.trials import check_masks, trials_named

    if methods is not None:
        _asked_for(methods, parameter, require)
    trials_named(checks)
    _check_folder(out)
    wanted_rows = None if rows is None else parse_rows(rows)
    calls = names_of(names)
    with asking(place) as asker, _other(compare, place) as other:
        info = asker.info()
        picture = replace(picture, said=info.preprocessing)
        found = with_masks(read_dataset(data, info, picture, wanted_rows), masks, wanted_rows)
        tried = trials_named(checks, masked=any(one.mask is not None for one in found.items))
        if methods is None:
            methods = DEFAULTS if has_derivatives(asker, found) else FREE
        chosen, wanted = _asked_for(methods, parameter, require)
        aim, tensor = aim_of(target, [one.name for one in info.outputs])
        settings = Settings(
            chosen,
            layers_of(asker, layer or [], source or (), tensor),
            tuple(source or ()),
            aim,
            tensor,
            read_baselines(baseline or [], source or info.sources, info.inputs, picture),
            ", ".join(Path(text).name for text in baseline or []) or "0",
            seed,
            target,
            logit,
            calls(asker),
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
        check_masks(run)
        run.budget = None if budget is None else 60 * budget
        with progress() as report:
            run.run(report, say)
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
    if any(one["answered"] for one in told["methods"].values()):
        for name, reason in run.skipped.items():
            say(f"the check {name} is left out: {reason}")
    if run.left_out:
        name, reason = next(iter(run.left_out.items()))
        say(f"{len(run.left_out)} of {len(found)} samples are left out, such as {name}: {reason}")
    if json:
        output.print_json({name: value for name, value in told.items() if name != "items"})
    else:
        _print(told, out)
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


def _asked_for(
    methods: str, parameter: Sequence[str] | None, require: Sequence[str] | None
) -> tuple[dict[str, Method], list[Requirement]]:
    """The methods and the requirements. Raises: InvalidArgument: there are no such."""
    chosen = methods_of(methods, parameter or [])
    return chosen, [parse_requirement(text, chosen) for text in require or []]


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


def _print(found: Mapping[str, Any], folder: Path) -> None:
    """The table of `audit`: the verdict and the metrics of each method, and where the report is."""
    from onnx_attribution.client.audit.report.summary import title

    out = output.console()
    for line in found.get("headline", ()):
        out.print(escape(line), soft_wrap=True)
    metrics = list(dict.fromkeys(name for one in found["methods"].values() for name in one["metrics"]))
    lines = [["method", "verdict", *map(title, metrics)]]
    for name, one in found["methods"].items():
        word = one["verdict"]["word"] if one["verdict"] else "no answer" if one["error"] else "-"
        numbers = [output.told(one["metrics"].get(metric, {}).get("value")) for metric in metrics]
        lines.append([name, word, *numbers])
    if len(lines) <= len(lines[0]):  # a line for each metric is narrower
        lines = [list(column) for column in zip(*lines, strict=True)]
    table = output.table(*lines[0], right=range(1, len(lines[0])))
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    out.print(table)
    out.print(escape(f"{folder / 'report.html'}: {found['data']['items']} samples"), soft_wrap=True)

"""`batch FILE`: attributions of a whole data set, in shards, on as many processes or machines as there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import DEFAULT
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Place, asking
from onnx_attribution.server.cli.data_source import FileSource
from onnx_attribution.server.cli.inputs import axes_of, read_baselines, shapes_of
from onnx_attribution.server.cli.login import Login
from onnx_attribution.server.cli.method import Given, parsed, with_parameters
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
from onnx_attribution.server.cli.progress import progress
from onnx_attribution.server.cli.status import FAILED, say
from onnx_attribution.server.cli.target import parse_target
from onnx_attribution.values import AttributionRequest

EXECUTORS = ("local", "grpc", "ray")


@with_parameters
def batch(
    file: options.File,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE", help="The samples, as for audit: a folder, an .npz or a .parquet file."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Where part-*.parquet and manifest.jsonl are written; what is there stays."
        ),
    ],
    method: Annotated[str, typer.Option(metavar="METHOD", help="As for explain.")] = DEFAULT.name,
    layer: Annotated[options.Many, typer.Option(metavar="NAME", help="As for explain. Repeatable.")] = None,
    source: options.Source = None,
    target: Annotated[
        options.Many,
        typer.Option(metavar="[TENSOR:]INDEX", help="As for explain; default: the largest of each sample."),
    ] = None,
    logit: options.Logit = False,
    baseline: options.Baseline = None,
    sums_only: Annotated[
        bool, typer.Option("--sums-only", help="Sums of layers without the values of their units.")
    ] = False,
    parameter: Annotated[
        options.Many, typer.Option(metavar="NAME=VALUE", help="As for explain. Repeatable.")
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            metavar="local|grpc|ray", help="Processes here, the servers of --server, or a cluster of Ray."
        ),
    ] = "local",
    workers: Annotated[
        int,
        typer.Option(
            min=0, metavar="NUMBER", help="Processes or actors; 0: as many as there are cores (or GPUs) for."
        ),
    ] = 0,
    gpus: Annotated[
        float, typer.Option(min=0, metavar="NUMBER", help="With ray: GPUs of an actor; 0.5: two share one.")
    ] = 0,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="With ray: of the cluster; default: one that begins here."),
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, max=256, metavar="NUMBER", help="Samples that are asked about together.")
    ] = 64,
    anew: Annotated[bool, typer.Option("--anew", help="Begin once more, in place of going on.")] = False,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    layout: Order = None,
    colours: Colour = None,
    resize: Resize = False,
    background: Background = None,
    provider: options.Provider = "auto",
    threads: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="Threads of each process or actor.")
    ] = 1,
    batch_axis: options.BatchAxis = None,
    shape: options.Shape = None,
    server: Annotated[
        options.Many, typer.Option(metavar="HOST:PORT", help="With grpc: a server to ask. Repeatable.")
    ] = None,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token: options.Token = None,
    model: options.Model = None,
    json: options.Json = False,
    parameters: Given = (),
) -> None:
    """Writes the attributions of every sample of a data set, as parquet files of --shard-size samples each.

    A batch that was stopped goes on when it is started again. A sample that cannot be explained has a line with its
    error, and the exit status is 1 at the end.
    """
    servers = list(server or [])
    if executor not in EXECUTORS:
        raise InvalidArgument(f"no executor {executor!r}; there are: {', '.join(EXECUTORS)}")
    if (executor == "grpc") != bool(servers):
        raise InvalidArgument("--executor grpc asks the servers of --server, and no other does")
    picture = picture_of(scale, mean, std, layout, colours, resize, background)
    login = Login(ca, certificate, key, token)
    places = [
        Place(model or file, one, provider, threads, axes_of(batch_axis or []), shapes_of(shape or []), login)
        for one in (servers or (None,))
    ]
    from onnx_attribution.server.scale import Folder, Job, digest_of, plan_shards, run_batch

    with asking(places[0]) as asker:
        info = asker.info()
        rows = FileSource(data, replace(picture, said=info.preprocessing))
        outputs = [one.name for one in info.outputs]
        name = method.replace("-", "_").lower()
        request = AttributionRequest(
            "", {}, name, tuple(layer or ()), tuple(source or ()),
            replace(parse_target(target or (), (), outputs), logit=logit),
            read_baselines(baseline or [], source or info.sources, info.inputs, picture),
            sums_only=sums_only, **parsed(name, parameters, parameter or (), info.inputs),
        )  # fmt: skip
        shards = plan_shards(rows.count(info), shard_size)
        plan = {
            "model": info.digest,
            "data": rows.digest(),
            "method": request.method.name,
            "request": digest_of(request),
            "shard_size": shard_size,
        }
    folder = Folder(out, plan, anew=anew)
    opens = [partial(_opened, place) for place in places]
    with _progress(sum(one.count for one in shards)) as advance:
        found = run_batch(
            _executor(executor, opens, info.digest, workers, gpus, address),
            Job(rows, request), folder, shards, advance,
        )  # fmt: skip
    errors = sum(one["errors"] for one in found)
    samples = sum(one["samples"] for one in found)
    if json:
        output.print_json({"samples": samples, "errors": errors, "shards": len(found), "out": str(out)})
    else:
        print(f"{samples} samples in {len(found)} files of {out}, {errors} of them with an error")
    if errors:
        say(f"{errors} of {samples} samples cannot be explained: the column `error` says why")
        raise typer.Exit(FAILED)


@contextmanager
def _opened(place: Place) -> Iterator[Any]:
    """The worker of a process: it is called there."""
    from onnx_attribution.server.scale.workers import worker_of

    with asking(place) as asker:
        yield worker_of(*asker.asked)


def _executor(
    name: str, opens: Sequence[Callable[[], Any]], digest: str, workers: int, gpus: float, address: str | None
) -> Any:
    from onnx_attribution.server.scale.local import Local
    from onnx_attribution.server.scale.on_ray import OnRay
    from onnx_attribution.server.scale.served import Served

    if name == "grpc":
        return Served(opens, digest)
    if name == "ray":
        return OnRay(opens[0], workers, gpus=gpus, address=address)
    return Local(opens[0], workers)


@contextmanager
def _progress(samples: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar of the samples that are done, on stderr, where that is a terminal."""
    done = 0
    with progress("samples") as report:

        def advance(said: dict[str, Any]) -> None:
            nonlocal done
            done += said["samples"]
            report(done, samples, "")

        yield advance

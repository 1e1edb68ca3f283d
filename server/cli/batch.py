"""`batch FILE`: attributions of a whole data set, in shards, on as many processes or machines as there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_attribution.errors import AttributionError, DeadlineExceeded, InvalidArgument, NotReady, Overloaded
from onnx_attribution.methods import DEFAULT
from onnx_attribution.server.cli import options, output
from onnx_attribution.server.cli.asker import Asker, Place, asking
from onnx_attribution.server.cli.bundles import Places, bundled
from onnx_attribution.server.cli.inputs import read_baselines
from onnx_attribution.server.cli.method import Given, parsed, with_parameters
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.progress import progress
from onnx_attribution.server.cli.status import FAILED, say
from onnx_attribution.server.cli.target import parse_target
from onnx_attribution.values import AttributionRequest

if TYPE_CHECKING:
    from onnx_attribution.server.scale import Executor

LOCAL, GRPC, RAY = EXECUTORS = ("local", "grpc", "ray")
THREADS = 1
"""Of each process or actor, so that a file does not depend on how many there are."""


@with_parameters
@bundled(threads=THREADS)
def batch(
    *,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE", help="The samples, as for audit: a folder, an .npz or a .parquet file."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="DIR/parts gets a parquet file for each shard; a batch that is there goes on."
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
            metavar="local|grpc|ray",
            help="Processes here, the servers of --server, or the actors of a Ray cluster.",
        ),
    ] = LOCAL,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="With local and ray: processes or actors; 0: as many as there are cores (or GPUs) for.",
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
    picture: Picture,
    places: Places,
    json: options.Json = False,
    parameters: Given = (),
) -> None:
    """Writes the attributions of every sample of a data set, as parquet files of --shard-size samples each.

    A batch that was stopped goes on when it is started again. A sample that cannot be explained has a line with its
    error, and the exit status is 1 at the end.
    """
    where = _Where(executor, places.each, workers, gpus, address)
    where.check()
    from onnx_attribution.server.cli.data_source import FileSource
    from onnx_attribution.server.scale import Folder, Job, digest_of, plan_shards, run_batch, try_question
    from onnx_attribution.server.scale.workers import worker_of

    with where.asking() as asker:
        info = asker.info()
        rows = FileSource.of(data, replace(picture, said=info.preprocessing))
        outputs = [one.name for one in info.outputs]
        name = method.replace("-", "_").lower()
        request = AttributionRequest(
            "", {}, name, tuple(layer or ()), tuple(source or ()),
            replace(parse_target(target or (), (), outputs), logit=logit),
            read_baselines(baseline or [], source or info.sources, info.inputs, picture),
            sums_only=sums_only, **parsed(name, parameters, parameter or (), info.inputs),
        )  # fmt: skip
        samples = rows.count(info)
        shards = plan_shards(samples, shard_size)
        plan = {
            "model": info.digest,
            "data set": rows.digest(),
            "method": request.method.name,
            "request": digest_of(request),
            "shard size": shard_size,
        }
        folder, job = Folder(out, plan, anew=anew), Job(rows, request)
        if not folder.committed():
            try_question(worker_of(*asker.asked), job, samples)
    with _progress(samples) as advance:
        try:
            found = run_batch(where.executor(info.digest), job, folder, shards, advance, say)
        except KeyboardInterrupt:
            done = len(folder.committed())
            say(f"{done} of {len(shards)} shards are done and stay: the same command goes on with the rest")
            raise
    errors = sum(one["errors"] for one in found)
    if json:
        said = {"samples": samples, "errors": errors, "shards": len(found), "out": str(out)}
        output.print_json({**said, "parts": str(out / folder.parts.name)})
    else:
        print(f"{samples} samples in {len(found)} files of {out / folder.parts.name}")
    if errors:
        say(f"{errors} of {samples} samples cannot be explained: the column `error` says why")
        raise typer.Exit(FAILED)


@dataclass(frozen=True)
class _Where:
    """What the options say of where shards run."""

    name: str
    places: Sequence[Place]
    workers: int
    gpus: float
    address: str | None

    def check(self) -> None:
        """Raises: InvalidArgument: an option that this executor has no use for, or one that it lacks."""
        if self.name not in EXECUTORS:
            raise InvalidArgument(f"no executor {self.name!r}; there are: {', '.join(EXECUTORS)}")
        place, is_served = self.places[0], self.places[0].server is not None
        if is_served and self.name != GRPC:
            raise InvalidArgument(f"--server is for --executor {GRPC}, not {self.name}")
        if self.name == GRPC and not is_served:
            raise InvalidArgument(
                f"--executor {GRPC} asks servers: give --server HOST:PORT, which may be repeated"
            )
        own = "--executor local and ray; a server has its own"
        useless: dict[str, tuple[bool, str]] = {
            "--gpus": (self.name != RAY and self.gpus != 0, "--executor ray"),
            "--address": (self.name != RAY and self.address is not None, "--executor ray"),
            "--model": (self.name != GRPC and place.model != place.file, "--executor grpc"),
            "--workers": (
                self.name == GRPC and self.workers != 0,
                "--executor local and ray; a server that is named twice has two shards at a time",
            ),
            "--provider": (self.name == GRPC and place.provider != "auto", own),
            "--threads": (self.name == GRPC and place.threads != THREADS, own),
            "--batch-axis": (self.name == GRPC and bool(place.batch_axes), own),
            "--shape": (self.name == GRPC and bool(place.shapes), own),
        }
        for option, (is_given, words) in useless.items():
            if is_given:
                raise InvalidArgument(f"{option} is for {words}")
        if not math.isfinite(self.gpus) or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise InvalidArgument(f"--gpus {self.gpus:g}: an actor has a part of one GPU, or whole ones")
        if self.name == RAY and place.provider == "cuda" and not self.gpus:
            raise InvalidArgument("--provider cuda needs --gpus, as Ray hides all others from its actors")
        if self.name == RAY and find_spec("ray") is None:
            raise InvalidArgument("--executor ray needs ray: pip install 'onnx-attribution[ray]'")

    @contextmanager
    def asking(self) -> Iterator[Asker]:
        """Whom to ask what the model is: the file, or the first server that answers."""
        failures: dict[str, AttributionError] = {}
        for place in self.places:
            with asking(place) as asker:
                try:
                    asker.info()
                except (NotReady, Overloaded, DeadlineExceeded) as error:
                    if place.server is None:
                        raise
                    failures[place.server] = error
                    continue
                yield asker
                return
        raise NotReady(
            f"no server answers: {'; '.join(f'{name}: {one.message}' for name, one in failures.items())}"
        )

    def executor(self, digest: str) -> Executor:
        from onnx_attribution.server.scale.local import Local
        from onnx_attribution.server.scale.on_ray import OnRay
        from onnx_attribution.server.scale.served import Served, Server

        opens = [partial(_opened, place) for place in self.places]
        if self.name == GRPC:
            names = [str(place.server) for place in self.places]
            return Served([Server(name, one) for name, one in zip(names, opens, strict=True)], digest, say)
        if self.name == RAY:
            share = self.gpus if 0 < self.gpus < 1 else 1.0
            shared = partial(_opened, replace(self.places[0], share=share))
            return OnRay(shared, self.workers, gpus=self.gpus, address=self.address)
        return Local(opens[0], self.workers)


@contextmanager
def _opened(place: Place) -> Iterator[Any]:
    """The worker of a process: it is called there."""
    from onnx_attribution.server.scale.workers import worker_of

    with asking(place) as asker:
        yield worker_of(*asker.asked)


@contextmanager
def _progress(samples: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar of the samples that are done, on stderr, where that is a terminal."""
    done = errors = 0
    with progress("samples") as report:
        report(0, samples, "")

        def advance(said: dict[str, Any]) -> None:
            nonlocal done, errors
            done, errors = done + said["samples"], errors + said["errors"]
            report(done, samples, f"samples, {errors} with an error" if errors else "")

        yield advance

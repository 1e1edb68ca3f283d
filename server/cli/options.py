"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Many = list[str] | None
File = Annotated[
    str, typer.Argument(metavar="FILE", help="The .onnx file; with --server, the model's name there.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Provider = Annotated[str, typer.Option(metavar="NAME", help="Where to run: auto, cpu or cuda.")]
Threads = Annotated[
    int, typer.Option(min=0, metavar="NUMBER", help="Threads of one run; 0: as many as there are cores.")
]
BatchAxis = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=AXIS", help="The batch axis of an input, or none where all samples share it."),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1x3x8x8", help="A shape on which the model runs, where the file leaves it open."
    ),
]
Server = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Ask this server instead.")]
Servers = Annotated[Many, typer.Option(metavar="HOST:PORT", help="Ask these servers instead. Repeatable.")]
Ca = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        envvar="ONNX_ATTRIBUTION_CA",
        help="With --server: encrypt, and trust the authority in this file, or `system`: those that grpc knows.",
    ),
]
Certificate = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        envvar="ONNX_ATTRIBUTION_CLIENT_CERTIFICATE",
        help="With --server: the certificate to connect with.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", envvar="ONNX_ATTRIBUTION_CLIENT_KEY", help="With --server: the certificate's key."
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        envvar="ONNX_ATTRIBUTION_TOKEN",
        help="With --server: the token of each call; the variable keeps it out of lists of processes.",
    ),
]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="The model's name on the server.")]
Names = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv",
        help="Names of units, as the command names writes them; those above chance are shown.",
    ),
]
Classes = Annotated[
    Path,
    typer.Option(
        metavar="FILE.csv",
        help="Descriptions: class,seen,attribute,...; one row a class, seen is its output index, or empty.",
    ),
]
Logit = Annotated[
    bool,
    typer.Option("--logit", help="What a final Softmax, LogSoftmax or Sigmoid is made of, in its place."),
]
LogitWhereThereIsOne = Annotated[
    bool | None,
    typer.Option(
        "--logit/--no-logit",
        help="What a final Softmax, LogSoftmax or Sigmoid is made of, in its place; default: where there is one.",
    ),
]
MeanCentred = Annotated[bool, typer.Option("--mean-centred", help="Less the mean over the classes.")]
Target = Annotated[
    Many,
    typer.Option(
        metavar="[TENSOR:]INDEX",
        help="3, 2,5 or 0:3,1 (a region is summed), TENSOR, TENSOR:3; @FILE or 1,@FILE: a mask, @FILE: weights. "
        "Given several times: one for each sample, or the elements of one.",
    ),
]
Minus = Annotated[Many, typer.Option(metavar="INDEX", help="Subtracted from the target; same forms.")]
Source = Annotated[
    Many,
    typer.Option(
        metavar="NAME",
        help="Where the path lives; default: embeddings of tokens, else the float inputs. Repeatable.",
    ),
]
Baseline = Annotated[
    Many,
    typer.Option(
        metavar="[NAME=]FILE|NUMBER",
        help="Default 0, or empty text. A number or file alone holds for all sources; NAME=TEXT for strings.",
    ),
]
Rows = Annotated[str | None, typer.Option(metavar="3|0:3", help="Only these samples.")]

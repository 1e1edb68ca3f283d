"""The command line: what the commands are called, and what their failures become."""

from __future__ import annotations

import typer

from onnx_attribution.client.cli.check import check
from onnx_attribution.client.cli.explain import explain
from onnx_attribution.client.cli.layers import layers
from onnx_attribution.client.cli.ops import ops
from onnx_attribution.client.cli.serve import serve
from onnx_attribution.client.cli.status import EPILOG, guarded

app = typer.Typer(
    name="onnx-attribution",
    help="Which neurons of an ONNX model contribute how much to its output.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # help is plain text: square brackets in it are no markup
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (serve, layers, check, explain, ops):
    app.command(epilog=EPILOG)(guarded(command))

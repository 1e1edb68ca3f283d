"""The command line: what the commands are called, and what their failures become."""

from __future__ import annotations

from collections.abc import Callable

import typer

from onnx_attribution.server.cli.ablation import ablation
from onnx_attribution.server.cli.add_class import add_class
from onnx_attribution.server.cli.audit import audit
from onnx_attribution.server.cli.batch import batch
from onnx_attribution.server.cli.build import build
from onnx_attribution.server.cli.check import check
from onnx_attribution.server.cli.explain import explain
from onnx_attribution.server.cli.export import expose, gradient
from onnx_attribution.server.cli.health import health
from onnx_attribution.server.cli.importance import importance
from onnx_attribution.server.cli.intervene import intervene
from onnx_attribution.server.cli.layers import layers
from onnx_attribution.server.cli.methods import methods
from onnx_attribution.server.cli.models import models
from onnx_attribution.server.cli.names import names
from onnx_attribution.server.cli.ops import ops
from onnx_attribution.server.cli.page import page
from onnx_attribution.server.cli.serve import Commands, serve
from onnx_attribution.server.cli.status import EPILOG, EPILOG_OF_AUDIT, guarded
from onnx_attribution.server.cli.token import token

app = typer.Typer(
    name="onnx-attribution",
    cls=Commands,
    help="Which neurons of an ONNX model contribute how much to its output.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # help is plain text: square brackets in it are no markup
    pretty_exceptions_enable=False,
    add_completion=False,
)
SHORT: dict[Callable[..., None], str] = {  # each fits on its line in the list of commands
    serve: "Serves models over gRPC until Ctrl-C.",
    token: "Makes a token for a caller of a server.",
    models: "Lists the models of a server.",
    health: "Says whether a server serves.",
    layers: "Lists the layers that can be attributed to.",
    check: "Says whether files can be attributed.",
    explain: "Attributes a target to inputs or layers.",
    intervene: "Sets, scales or patches activations.",
    ablation: "Removes neurons in the order of each method.",
    importance: "Weighs the units of a layer for each class.",
    page: "Looks into a model in the browser.",
    audit: "Tests which explanations mean something.",
    batch: "Attributions of a whole data set.",
    names: "Names the units of a layer in words.",
    add_class: "Adds classes by their description.",
    methods: "Lists the methods and their parameters.",
    expose: "Writes a model with hidden tensors as outputs.",
    gradient: "Writes a model with its gradient appended.",
    build: "Writes a model that attributes by itself.",
    ops: "Lists the operators and what becomes of them.",
}
for command, short in SHORT.items():
    app.command(epilog=EPILOG_OF_AUDIT if command is audit else EPILOG, short_help=short)(guarded(command))

"""The same questions to torch, Captum and the engine, about one network that torch exported.

Names in the file are not trusted: a hidden layer is the first tensor of the file that has the shape and the values of
the module's output. Errors are the largest difference over the largest magnitude of the reference, per tensor.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ad
import torch
from captum.attr import LayerConductance
from torch import Tensor, nn

from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.values import Array, AttributionRequest, Target
from tests.peers.architectures import SAMPLES, Architecture

Exporter = Literal["dynamo", "torchscript"]
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")
STEPS = 500
TOLERANCE = 1e-4
"""A point of the path that rounding moves over a kink would show: it weighs up to 1/STEPS. The weights avoid that."""
SOURCE = "source"


class ExportFailed(Exception):
    """Torch cannot export the network; the message is the first line of its own."""


@dataclass(frozen=True)
class Reference:
    """What torch and Captum say, by layer; `activations` and `gradients` hold the source too, as `SOURCE`.

    `baseline` is the start of the path, in the shape of the source.
    """

    baseline: Array
    activations: Mapping[str, Array]
    gradients: Mapping[str, Array]
    conductances: Mapping[str, Array]


def export(
    architecture: Architecture, network: nn.Module, exporter: Exporter, *, static: bool = False
) -> bytes:
    """The file that torch writes of the network, with dynamic axes, or `static` with one sample.

    Raises:
        ExportFailed: torch refuses.
    """
    names = list(architecture.inputs)
    few = tuple(value[: 1 if static else 2] for value in architecture.inputs.values())
    axes = () if static else architecture.axes
    written = io.BytesIO()
    with _quiet():
        try:
            if exporter == "torchscript":
                named = {name: dict(enumerate(axes)) for name in names}
                torch.onnx.export(
                    network,
                    few,
                    written,
                    input_names=names,
                    output_names=["output"],
                    dynamic_axes=named,
                    dynamo=False,
                )
                return written.getvalue()
            sizes = {k: torch.export.Dim(axis) for k, axis in enumerate(axes)}
            program = torch.onnx.export(
                network, few, input_names=names, output_names=["output"], dynamic_shapes=(sizes,) * len(few)
            )
        except Exception as error:  # torch raises whatever it likes
            raise ExportFailed(_first_line(error)) from error
    return bytes(program.model_proto.SerializeToString())


def reference(architecture: Architecture, network: nn.Module) -> Reference:
    """The gradients by autograd and the total conductance by Captum, of the target summed over the samples."""
    modules = dict(network.named_modules())
    inputs = tuple(architecture.inputs.values())
    if architecture.source:
        with _outputs_of({SOURCE: modules[architecture.source]}) as seen, torch.no_grad():
            network(*inputs)
        source: Tensor = seen[SOURCE].detach()
        entry: nn.Module = _FromModule(network, modules[architecture.source])
        rest = inputs
    else:
        source, entry, rest = inputs[0], network, inputs[1:]
    source = source.clone().requires_grad_()
    with _outputs_of({name: modules[name] for name in architecture.layers}) as seen:
        output = entry(source, *rest)
    tensors = {SOURCE: source, **seen}
    explained = output[(slice(None), *architecture.target)].sum()
    gradients = torch.autograd.grad(explained, list(tensors.values()))
    generator = torch.Generator().manual_seed(3)
    baseline = 0.3 * torch.randn(source.shape, generator=generator)
    conductances = {
        name: LayerConductance(entry, modules[name]).attribute(
            source.detach(),
            baseline,
            target=architecture.target,
            additional_forward_args=rest or None,
            n_steps=STEPS,
        )
        for name in architecture.layers
    }
    return Reference(
        _array(baseline),
        {name: _array(value) for name, value in tensors.items()},
        {name: _array(value) for name, value in zip(tensors, gradients, strict=True)},
        {name: _array(value) for name, value in conductances.items()},
    )


@dataclass(frozen=True)
class Comparison:
    """How an exported file compares: its batch mode, the errors by layer, and the layers that it does not hold."""

    batch: str
    gradients: Mapping[str, float]
    conductances: Mapping[str, float]
    missing: tuple[str, ...]

    def errors(self) -> Iterator[tuple[str, float]]:
        """What was compared, in words, and its error."""
        yield from ((f"gradient at {name}", value) for name, value in self.gradients.items())
        yield from ((f"neuron_ig at {name}", value) for name, value in self.conductances.items())


def compare(architecture: Architecture, file: bytes, wanted: Reference, *, path: bool = True) -> Comparison:
    """The engine's gradients and, with `path`, its `neuron_ig` of the file against the reference."""
    with Engine(provider="cpu") as engine:
        engine.add("model", file)
        batch = engine.info("model").batch or ""
        alone = batch == "single"  # a sample is a whole input then, with its axis of one
        inputs = {n: v.numpy()[:, None] if alone else v.numpy() for n, v in architecture.inputs.items()}
        target = Target(index=architecture.target)

        def unit(values: Array) -> Array:
            return values[:, 0] if alone and values.ndim > 1 else values

        names = [layer.name for layer in engine.layers("model")]
        tensors = {n: unit(v) for n, v in engine.predict("model", inputs, names).items()}
        found = _matched(tensors, wanted.activations)
        if not architecture.source:
            found[SOURCE] = next(iter(inputs))
        missing = tuple(name for name in wanted.activations if name not in found)
        if missing:
            return Comparison(batch, {}, {}, missing)
        hidden, source = [found[name] for name in architecture.layers], found[SOURCE]
        gradient = engine.attribute(
            AttributionRequest("model", inputs, "gradient", [source, *hidden], [source], target)
        )
        gradients = {n: error(unit(gradient.layers[found[n]].values), g) for n, g in wanted.gradients.items()}
        if not path:
            return Comparison(batch, gradients, {}, ())
        sums = engine.attribute(
            AttributionRequest(
                "model", inputs, "neuron_ig", hidden, [source], target, {source: wanted.baseline}, steps=STEPS,
                quadrature="gausslegendre",
            )
        )  # fmt: skip
    conductances = {n: error(sums.layers[found[n]].values, c) for n, c in wanted.conductances.items()}
    return Comparison(batch, gradients, conductances, ())


def onnx_ad_gradient(architecture: Architecture, file: bytes) -> Array | None:
    """The gradient at the float input by onnx-ad, of a file that is fixed at one sample; None: it refuses the file."""
    try:
        source = next(iter(architecture.inputs))
        program = onnx_ad.reverse(onnx.load_model_from_string(file), inputs=[source], layout="onnx")
    except onnx_ad.UnsupportedOperator:
        return None
    session = Backend("cpu").session(program)
    (seed,) = (x for x in program.graph.input if x.name not in architecture.inputs)
    weight = np.zeros([d.dim_value or 1 for d in seed.type.tensor_type.shape.dim], dtype=np.float32)
    weight[(0, *architecture.target)] = 1
    rows = [
        session.run({**{n: v[k : k + 1].numpy() for n, v in architecture.inputs.items()}, seed.name: weight})
        for k in range(SAMPLES)
    ]
    return np.concatenate([row[program.graph.output[-1].name][..., 0] for row in rows])


def error(found: Array, wanted: Array) -> float:
    """The largest difference over the largest magnitude of the reference; infinite where the shapes differ."""
    if found.shape != wanted.shape:
        return np.inf
    return float(np.abs(np.subtract(found, wanted)).max() / np.abs(wanted).max())


def _matched(tensors: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, str]:
    """The first tensor, in the order of the file, with the values of each layer."""
    matches = {
        layer: next((n for n, found in tensors.items() if error(found, values) <= TOLERANCE), None)
        for layer, values in wanted.items()
    }
    return {layer: name for layer, name in matches.items() if name is not None}


class _FromModule(nn.Module):
    """A network as a function of what one of its modules puts out: the first argument; the others are its own."""

    def __init__(self, network: nn.Module, module: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.replaced = module

    def forward(self, value: Tensor, *inputs: Tensor) -> Tensor:
        handle = self.replaced.register_forward_hook(lambda *_: value)
        try:
            return self.network(*inputs)
        finally:
            handle.remove()


@contextlib.contextmanager
def _outputs_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collects what the modules put out."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen[name] = output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters from printing their progress and warnings."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(logging.NOTSET)


def _array(value: Tensor) -> Array:
    array: Array = value.detach().numpy()
    return array


def _first_line(error: BaseException) -> str:
    """What the innermost error says, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]

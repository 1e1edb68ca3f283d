"""What torch and Captum do for the same question. Needs torch; Captum where it is asked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from onnx_attribution.values import Array


def forward(module: Any, x: Any) -> Array:
    with torch.no_grad():
        found: Array = module(x).numpy()
    return found


def gradient(module: Any, x: Any, target: int = 1) -> Array:
    """Of the sum over the samples, which is each sample's own."""
    leaf = x.clone().requires_grad_()
    found: Array = torch.autograd.grad(module(leaf)[:, target].sum(), leaf)[0].numpy()
    return found


def output_of(module: Any, layer: str, x: Any) -> Array:
    """What a module within puts out."""
    seen: list[Any] = []
    handle = module.get_submodule(layer).register_forward_hook(lambda *given: seen.append(given[2]))
    try:
        forward(module, x)
    finally:
        handle.remove()
    return np.asarray(seen[0].detach())


def integrated_gradients(
    module: Any, x: Any, steps: int, rows: int | None, target: int = 1
) -> Callable[[], Array]:
    import captum.attr

    method = captum.attr.IntegratedGradients(module)
    call = functools.partial(method.attribute, x, baselines=torch.zeros_like(x), target=target, n_steps=steps)
    return lambda: np.asarray(call(internal_batch_size=rows).detach())


def layer_conductance(
    module: Any, layer: str, x: Any, steps: int, rows: int | None, target: int = 1
) -> Callable[[], Array]:
    import captum.attr

    method = captum.attr.LayerConductance(module, module.get_submodule(layer))
    call = functools.partial(method.attribute, x, baselines=torch.zeros_like(x), target=target, n_steps=steps)
    return lambda: np.asarray(call(internal_batch_size=rows).detach())


def deeplift(module: Any, x: Any, target: int = 1) -> Callable[[], Array]:
    """Raises: whatever Captum raises of a module that it does not take."""
    import captum.attr

    method = captum.attr.DeepLift(module)

    def run() -> Array:
        return np.asarray(method.attribute(x, baselines=torch.zeros_like(x), target=target).detach())

    run()
    return run


def tensors(inputs: Mapping[str, Array]) -> Any:
    """The one input, for torch."""
    (array,) = inputs.values()
    return torch.from_numpy(np.asarray(array))

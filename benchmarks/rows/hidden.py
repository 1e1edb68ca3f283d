"""The hidden layer of a network that rows ask for."""

from __future__ import annotations

from benchmarks.bench import Asking
from benchmarks.networks import Ready


def hidden_layer(ready: Ready, ask: Asking) -> str:
    """The tensor of the file that holds the output of the network's module; without torch, the last of its shape."""
    if ready.module is not None:
        from benchmarks import peers

        inputs = ready.inputs(2)
        return ask.layer(inputs, peers.output_of(ready.module, ready.layer, peers.tensors(inputs)))
    relus = [layer for layer in ask.engine.layers("model") if layer.operator == "Relu" and layer.cut]
    deep = [
        layer.name for layer in relus if layer.shape is not None and tuple(layer.shape[1:]) == (1024, 14, 14)
    ]
    return deep[-1]

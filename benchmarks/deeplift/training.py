"""What both training scripts need from torch."""

from __future__ import annotations

from pathlib import Path

import torch


def seeded(seed: int) -> None:
    """The same numbers, and sums in the same order, in every run."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)


def save(network: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    """Writes the network as ONNX with a dynamic batch; the input is `x`."""
    torch.onnx.export(
        network.eval(),
        (example,),
        path,
        input_names=["x"],
        output_names=["probabilities"],
        dynamic_axes={"x": {0: "N"}, "probabilities": {0: "N"}},
        dynamo=False,  # the other exporter writes where the code lay
    )

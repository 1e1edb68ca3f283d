"""Trains the small network of an experiment on the classes that are seen, and writes it as ONNX; needs torch.

Three or four convolutions, the mean over positions, and a linear head: what the weights of a new class are added to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.deeplift.training import seeded

BATCH, RATE, DECAY = 128, 3e-3, 1e-3


def network(channels: int, classes: int, widths: tuple[int, ...]) -> torch.nn.Sequential:
    """Convolutions with batch normalisation, the first two with pooling; the mean over positions and the head."""
    parts: list[torch.nn.Module] = []
    for k, width in enumerate(widths):
        parts += [
            torch.nn.Conv2d(channels, width, 3, padding=1),
            torch.nn.BatchNorm2d(width),
            torch.nn.ReLU(),
        ]
        parts += [torch.nn.MaxPool2d(2)] if k < 2 else []
        channels = width
    return torch.nn.Sequential(
        *parts, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels, classes)
    )


def train(
    images: NDArray[np.float32],
    labels: NDArray[np.integer],
    path: Path,
    *,
    widths: tuple[int, ...],
    epochs: int,
    seed: int,
) -> None:
    """Adam with decay and one cycle of the rate; the file has a dynamic batch, input `x` and output `logits`."""
    seeded(seed)
    x, y = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    made = network(images.shape[1], int(labels.max()) + 1, widths)
    optimiser = torch.optim.AdamW(made.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * (len(x) // BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(made(x[rows]), y[rows]).backward()
            optimiser.step()
            cycle.step()
    torch.onnx.export(
        made.eval(),
        (x[:1],),
        path,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
        dynamo=False,  # the other exporter writes where the code lay
    )

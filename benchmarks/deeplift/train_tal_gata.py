"""Trains the network of the TAL and GATA experiment and writes tal_gata.onnx; needs torch.

    python -m benchmarks.deeplift.train_tal_gata

The layers are those of the authors' notebooks: two convolutions of width 11 with 50 channels, the mean over the
positions, a dense layer of 50 and one of 3.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.deeplift.simulation import simulate
from benchmarks.deeplift.tal_gata import MODEL
from benchmarks.deeplift.training import save, seeded

EPOCHS = 40
TRAINING = (8000, 2)  # sequences, seed
HELD_OUT = (800, 3)


class Mean(torch.nn.Module):
    """The mean over the positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, channels, positions]` to `[N, channels]`."""
        return torch.nn.functional.adaptive_avg_pool1d(x, 1).flatten(1)


def main() -> None:
    """Trains with Adam, with a fixed seed."""
    seeded(0)
    data, held_out = simulate(*TRAINING), simulate(*HELD_OUT)
    x, y = torch.from_numpy(data.one_hot), torch.from_numpy(data.labels)
    network = torch.nn.Sequential(
        torch.nn.Conv1d(4, 50, 11),
        torch.nn.ReLU(),
        torch.nn.Conv1d(50, 50, 11),
        torch.nn.ReLU(),
        Mean(),
        torch.nn.Linear(50, 50),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(50, 3),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for epoch in range(EPOCHS):
        network.train()
        losses = []
        for rows in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x[rows]), y[rows])
            loss.backward()
            optimiser.step()
            losses.append(float(loss))
        schedule.step()
        with torch.no_grad():
            found = network.eval()(torch.from_numpy(held_out.one_hot)).numpy() > 0
        right = (found == (held_out.labels > 0)).mean(axis=0)
        print(f"epoch {epoch + 1}: {np.mean(losses):.4f}, held out {right}", flush=True)
    save(torch.nn.Sequential(network, torch.nn.Sigmoid()), x[:1], MODEL)


if __name__ == "__main__":
    main()

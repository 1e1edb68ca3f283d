"""Inputs that the models accept and that mean something to them: a line of digits, a vowel, a piece of a program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DIGITS = Path(__file__).parents[1] / "data" / "digits" / "digits.npz"
RATE = 16_000
PROGRAM = b"""import sys


def main() -> int:
    for line in sys.stdin:
        print(line.strip().upper())
    return 0


if __name__ == "__main__":
    sys.exit(main())
"""
PADDING = 256


def picture(
    height: int, width: int, channels: int = 3, *, mean: float = 0.5, scale: float = 0.5, last: bool = False
) -> Floats:
    """A line of handwritten digits, dark on light with a margin, `(value - mean) / scale` of values from 0 to 1.

    The paper has a grain: on an even ground every maximum of a pool is a tie, of which differences say nothing.
    """
    digits = 1 - np.load(DIGITS)["images"][:, 0].astype(np.float64) / 16
    count = min(max(round(width / height), 1), len(digits))
    line = np.pad(np.concatenate(list(digits[:count]), axis=1), 3, constant_values=1)
    across = _stretched(_stretched(line, height).T, width).T
    grain = np.random.default_rng(2).uniform(0, 0.05, across.shape)
    grey = ((across - grain - mean) / scale).astype(np.float32)
    shape = (1, height, width, channels) if last else (1, channels, height, width)
    found: Floats = np.array(np.broadcast_to(grey[None, :, :, None] if last else grey[None, None], shape))
    return found


def _stretched(rows: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """As many rows as wanted, between their neighbours."""
    there = np.linspace(0, len(rows) - 1, count)
    first = np.minimum(there.astype(int), len(rows) - 2)
    share = (there - first)[:, None]
    found: NDArray[np.float64] = rows[first] * (1 - share) + rows[first + 1] * share
    return found


def sound(*shape: int, size: float = 0.3) -> Floats:
    """A sung vowel at 16 kHz: harmonics under two formants, a vibrato, and a room that is not silent."""
    time = np.arange(int(np.prod(shape))) / RATE
    pitch = 140
    phase = 2 * np.pi * (pitch * time + 0.3 * np.sin(2 * np.pi * 5 * time))
    harmonics = np.arange(1, 25)
    loud = sum(np.exp(-(((pitch * harmonics - f) / 250.0) ** 2)) for f in (700.0, 1200.0)) + 0.02
    wave = np.sin(phase[:, None] * harmonics) @ loud
    wave = wave / np.abs(wave).max() + np.random.default_rng(0).normal(size=wave.shape) * 0.02
    found: Floats = (size * wave).reshape(shape).astype(np.float32)
    return found


def spectrum(*shape: int, size: float = 1.0) -> Floats:
    """Log energies of the vowel in frames of 10 ms, `[..., frames, bands]`."""
    frames, bands = shape[-2:]
    wave = sound(frames * 160 + 512).astype(np.float64)
    windows = np.stack([wave[160 * k : 160 * k + 512] for k in range(frames)]) * np.hanning(512)
    power = np.abs(np.fft.rfft(windows, n=2 * max(bands, 256))) ** 2
    merged = np.stack([part.sum(axis=1) for part in np.array_split(power[:, 1:], bands, axis=1)], axis=1)
    return np.array(np.broadcast_to(size * np.log10(merged + 1e-4), shape), dtype=np.float32)


def noise(*shape: int, size: float = 1.0) -> Floats:
    """Normal numbers, for measurements that have no everyday form."""
    return (np.random.default_rng(1).normal(size=shape) * size).astype(np.float32)


def zeros(*shape: int) -> Floats:
    """The state before the first sample."""
    return np.zeros(shape, dtype=np.float32)


def number(value: float, kind: type[np.generic] = np.int64) -> NDArray[np.generic]:
    """One number without axes."""
    return np.asarray(value, dtype=kind)


def program(length: int, kind: type[np.generic] = np.int32) -> NDArray[np.generic]:
    """The first and the last bytes of a program, padded: what classifiers of files are given."""
    half = length // 2
    first = np.full(half, PADDING)
    first[: len(PROGRAM)] = list(PROGRAM[:half])
    last = np.full(half, PADDING)
    last[-len(PROGRAM) :] = list(PROGRAM[-half:])
    return np.concatenate([first, last])[None].astype(kind)


def tokens(*ids: int, kind: type[np.generic] = np.int64) -> NDArray[np.generic]:
    """The numbers of letters or words, one text."""
    return np.asarray([ids], dtype=kind)

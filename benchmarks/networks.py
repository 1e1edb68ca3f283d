"""The networks that are measured: a new one is an entry of `NETWORKS`.

Where torch is installed they are modules of `modules.py`, exported by torch; else those files that `files.py` writes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks import files
from onnx_attribution.values import Array

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_CAPTUM = HAS_TORCH and importlib.util.find_spec("captum") is not None
OPSET = 18


@dataclass(frozen=True)
class Size:
    """The arguments of a module, the shape of one sample, and how many samples are measured together."""

    shape: tuple[int, ...]
    batch: int
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A network and its targets: `gradient`, `path` and `deeplift` are ratios to forward passes, `torch` to ours.

    `module` is a class of `modules.py`; `file` writes the same as ONNX without torch. `layer` is the module whose
    output is the hidden layer that rows ask for.
    """

    key: str
    name: str
    module: str
    full: Size
    small: Size
    gradient: float
    path: float = 2.3
    torch: float = 1.0
    deeplift: float = 3.6
    layer: str = ""
    small_layer: str = ""
    file: Callable[[], onnx.ModelProto] | None = None


NETWORKS = (
    Network(
        "resnet50", "ResNet-50", "ResNet",
        Size((3, 224, 224), 10), Size((3, 64, 64), 4, {"blocks": (1, 1, 1, 1), "width": 16}),
        gradient=2.3, torch=1.4, layer="stages.2", file=partial(files.resnet, (3, 4, 6, 3), True),
    ),
    Network(
        "mobilenetv2", "MobileNetV2", "MobileNetV2",
        Size((3, 224, 224), 10), Size((3, 64, 64), 4, {"stages": ((1, 16, 1, 1), (6, 24, 2, 2)), "last": 64}),
        gradient=2.8, path=2.8, deeplift=5.0,
    ),
    Network(
        "unet", "U-Net", "UNet", Size((3, 128, 128), 8), Size((3, 32, 32), 4, {"widths": (8, 16, 32)}),
        gradient=2.8, path=2.8,
    ),
    Network(
        "lstm", "LSTM", "Recurrent", Size((100, 64), 16), Size((20, 16), 4, {"features": 16, "width": 32}), gradient=3.0
    ),
    Network(
        "vit4", "ViT, 4 layers", "VisionTransformer",
        Size((3, 224, 224), 4, {"layers": 4}),
        Size((3, 64, 64), 4, {"layers": 2, "width": 96, "heads": 4, "size": 64}),
        gradient=2.3, layer="blocks.1", small_layer="blocks.0", file=partial(files.vit, 4),
    ),
    Network(
        "bert6", "BERT, 6 layers", "Encoder",
        Size((128, 768), 8, {"layers": 6}), Size((16, 64), 4, {"layers": 2, "width": 64, "heads": 4}),
        gradient=2.3, layer="blocks.2", small_layer="blocks.0", file=partial(files.bert, 6, tokens=128),
    ),
)  # fmt: skip


class Ready:
    """A network that can be measured: its file, and its module where torch is there."""

    def __init__(self, network: Network, folder: Path, quick: bool, threads: int) -> None:
        self.network = network
        few = network.small if HAS_TORCH else replace(network.full, batch=2)  # files are of one size
        self.size = few if quick else network.full
        self.layer = (quick and network.small_layer) or network.layer
        self.threads = threads
        self._path = folder / f"{network.key}.onnx"

    @property
    def name(self) -> str:
        return self.network.name

    @cached_property
    def module(self) -> Any:
        """The torch module; None without torch."""
        if not HAS_TORCH:
            return None
        from benchmarks import modules

        return modules.seeded(getattr(modules, self.network.module), **self.size.arguments)

    @property
    def available(self) -> bool:
        """Whether torch or `files.py` makes the file."""
        return HAS_TORCH or self.network.file is not None

    @cached_property
    def file(self) -> Path:
        """The ONNX file."""
        if self.module is not None:
            export(self.module, self.tensor(), self._path)
        else:
            assert self.network.file is not None
            onnx.save(self.network.file(), str(self._path))
        return self._path

    @cached_property
    def session(self) -> ort.InferenceSession:
        """onnxruntime alone, with its defaults."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        return ort.InferenceSession(str(self.file), options, providers=["CPUExecutionProvider"])

    def inputs(self, rows: int | None = None, seed: int = 0) -> dict[str, Array]:
        """Random samples, as many as are measured together if nothing is said."""
        rng = np.random.default_rng(seed)
        count = self.size.batch if rows is None else rows
        if any(x.type != "tensor(float)" for x in self.session.get_inputs()):
            shape = (count, self.size.shape[0])
            return {
                "input_ids": rng.integers(1000, 20_000, shape),
                "attention_mask": np.ones(shape, np.int64),
            }
        (name,) = (x.name for x in self.session.get_inputs())
        return {name: rng.standard_normal((count, *self.size.shape), dtype=np.float32)}

    def forward(self, inputs: Mapping[str, Array]) -> None:
        """Runs all rows, in batches as large as are measured together."""
        count = len(next(iter(inputs.values())))
        for first in range(0, count, self.size.batch):
            self.session.run(None, {n: a[first : first + self.size.batch] for n, a in inputs.items()})

    def tensor(self, rows: int | None = None, seed: int = 0) -> Any:
        """The same samples for torch."""
        import torch

        count = self.size.batch if rows is None else rows
        rng = np.random.default_rng(seed)
        return torch.from_numpy(rng.standard_normal((count, *self.size.shape), dtype=np.float32))


def export(module: Any, example: Any, path: Path) -> None:
    """Writes what torch makes of a module, with a dynamic batch."""
    import torch

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            torch.onnx.export(
                module, (example,), str(path), input_names=["x"], output_names=["y"],
                dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, dynamo=False, opset_version=OPSET,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)

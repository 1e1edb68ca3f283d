"""What a CUDA device gives, in at most ten minutes: `python -m benchmarks.gpu`. Without one it says so.

Every method's numbers beside those of the CPU (to 1e-3 of their L1 norm, with TF32 off), what of the programs would
not run on the device, the device's memory, and times beside torch and Captum on the same device, where these are
installed. All goes to `benchmarks/results/DEVICE.md`; the status is 1 if a number differs or a node is misplaced.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks import files
from onnx_attribution import methods
from onnx_attribution.errors import AttributionError
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.recipe import Biases, infos, recipe_of
from onnx_attribution.values import Array, AttributionRequest, Target

RESULTS = Path(__file__).parent / "results"
LIMIT = 600  # seconds, of which the times take what the checks leave
TOLERANCE = 1e-3
STEPS = 16
FEW = 1024  # elements, up to which occlusion is asked for, which evaluates each
FILES = (
    "cct2-layernorm-decomposed",
    "lstm-scan",
    "mnist-cnn-pytorch",
    "mobilenetv2-qdq",
    "voice-commands-fused",
)
GENERATED: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "ResNet-50": partial(files.resnet, (3, 4, 6, 3), True),
    "ViT, 4 layers": partial(files.vit, 4),
}


def models() -> Iterator[tuple[str, Path | onnx.ModelProto]]:
    """Those whose numbers are compared, as far as they are at hand."""
    yield "digits", Path("tests/data/digits/digits.onnx")
    folder = os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")
    for name in FILES if folder else ():
        yield name, Path(str(folder), "models", name, "model.onnx")
    for name, make in GENERATED.items():
        yield name, make()


def compared(name: str, model: Path | onnx.ModelProto) -> Iterator[tuple[str, ...]]:
    """A row a method: the distance of the device's map from the CPU's, relative to that one, and how it ended."""
    with Engine(provider="cpu") as cpu, Engine(provider="cuda") as cuda:
        for engine in (cpu, cuda):
            engine.add(name, model)
        rng = np.random.default_rng(0)
        inputs: dict[str, Array] = {}
        for x in cpu.info(name).inputs:
            shape = [
                d if isinstance(d, int) and d > 0 else 2 if k == x.batch_axis else 8
                for k, d in enumerate(x.shape or ())
            ]
            drawn = rng.normal(size=shape) if x.dtype.startswith("float") else np.ones(shape)
            inputs[x.name] = drawn.astype(x.dtype)
        layers = cpu.layers(name)
        middle = layers[len(layers) // 2]
        layer, first = middle.name, [0] * (len(middle.shape or (0,)) - 1)
        for one in infos():
            if not one.needs_derivatives and sum(a.size for a in inputs.values()) > FEW:
                continue
            known = {parameter.name for parameter in one.parameters}
            given: dict[str, Any] = {"steps": STEPS, "quadrature": "trapezoid"}
            of_neuron = one.name == "neuron_conductance"
            given |= {"neuron": {layer: first}} if of_neuron else {}
            of_all = isinstance(recipe_of(methods.make(one.name)).inner.at, Biases)
            chosen = [] if one.layer_is_source or of_neuron or of_all else [layer]
            request = AttributionRequest(
                name, inputs, one.name, chosen, target=Target(index=0), **{n: v for n, v in given.items() if n in known}
            )  # fmt: skip
            try:
                pairs = zip(
                    *(engine.attribute(request).layers.values() for engine in (cpu, cuda)), strict=True
                )
                far = max(_distance(a.values, b.values) for a, b in pairs)
                yield name, one.name, f"{far:.1e}", "" if far <= TOLERANCE else "differs"
            except AttributionError as error:
                yield name, one.name, "", f"refused: {str(error)[:80]}"


def _distance(expected: Array, found: Array) -> float:
    wide, other = expected.astype(np.float64), found.astype(np.float64)
    return float(np.abs(wide - other).sum() / max(np.abs(wide).sum(), 1e-30))


def misplaced() -> Iterator[tuple[str, ...]]:
    """Programs of which more than the arithmetic of shapes would run on the CPU."""
    from tests.placement.models import at_fault
    from tests.placement.place import placed

    for name, model in models():
        for found in placed(name, model):
            if at_fault(found):
                others = ", ".join(f"{operator} {count}" for operator, count in found.others.items())
                yield name, found.program, others


def used() -> int:
    """MiB of the first device that are taken, by whomever."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0


def device() -> str:
    """The name of the first device."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "CUDA device"


def timed(until: float) -> Iterator[tuple[str, ...]]:
    """A row a network: milliseconds, each the median of rounds in which all take turns."""
    import torch
    import transformers

    torch.backends.cudnn.allow_tf32 = False
    made: Mapping[str, Callable[[], Any]] = {
        "ResNet-50": lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig()),
        "MobileNetV2": lambda: transformers.MobileNetV2ForImageClassification(
            transformers.MobileNetV2Config()
        ),
    }
    for name, make in made.items():
        if time.monotonic() < until:
            torch.manual_seed(0)
            yield name, *_milliseconds(make(), until)


def _milliseconds(inner: Any, until: float) -> list[str]:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image: Any) -> Any:
            return self.inner(image, return_dict=False)[0]

    module: Any = Logits().eval()
    rows, target = 8, 1
    image = torch.randn(rows, 3, 224, 224)
    inputs = {"image": image.numpy()}
    with tempfile.TemporaryDirectory() as folder, Engine(provider="cuda") as engine:
        path = str(Path(folder) / "model.onnx")
        axes = {"image": {0: "batch"}}
        torch.onnx.export(module, (image[:2],), path, input_names=["image"], dynamic_axes=axes, dynamo=False)
        engine.add("model", path)
        forward = Backend("cuda").session(onnx.load(path))
        module.cuda()
        on_device = image.cuda()
        path_rule: dict[str, Any] = {"steps": 50, "quadrature": "trapezoid"}
        gradient, paths = (
            AttributionRequest("model", inputs, method, target=Target(index=target), **given)
            for method, given in (("gradient", {}), ("integrated_gradients", path_rule))
        )

        def saliency() -> Any:
            leaf = on_device.clone().requires_grad_()
            return torch.autograd.grad(module(leaf)[:, target].sum(), leaf)[0].cpu()

        programs: dict[str, Callable[[], object]] = {
            "forward": lambda: forward.run(inputs),
            "gradient": lambda: engine.attribute(gradient),
            "torch": saliency,
            "paths": lambda: engine.attribute(paths),
        }
        if find_spec("captum"):
            from captum.attr import IntegratedGradients

            explain = IntegratedGradients(module).attribute
            programs["captum"] = lambda: explain(
                on_device, target=target, n_steps=50, internal_batch_size=64
            ).cpu()
        times: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(8):
            for name, run in programs.items():
                started = time.perf_counter()
                run()
                times[name] += [time.perf_counter() - started] if turn else []
            if turn > 1 and time.monotonic() > until:
                break
    columns = ("forward", "gradient", "torch", "paths", "captum")
    return [f"{statistics.median(times[c]) * 1e3:.1f}" if c in times else "" for c in columns]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def main() -> int:
    """Prints the page and writes it."""
    try:
        automatic = Backend("auto").provider
    except AttributionError:
        automatic = "cpu"
    if automatic != "cuda":
        print("gpu: skipped, onnxruntime finds no CUDA device")
        return 0
    until = time.monotonic() + LIMIT
    before, name = used(), device()
    numbers = [row for name_, model in models() for row in compared(name_, model)]
    places = list(misplaced())
    sections = [
        f"# {name}\n\nonnxruntime {ort.__version__}; one run of `python -m benchmarks.gpu`, TF32 off.",
        "## Numbers beside the CPU's\n\n" + table(("model", "method", "distance", ""), numbers),
        "## Not on the device\n\n"
        + (table(("model", "program", "operators"), places) if places else "Nothing."),
        f"## Memory\n\n{used() - before} MiB are taken after these, {before} were before.",
    ]
    if find_spec("torch") and find_spec("transformers"):
        header = ("8 samples, ms", "onnxruntime", "gradient", "torch's", "50 steps", "Captum's")
        sections.append("## Times\n\n" + table(header, list(timed(until))))
    else:
        sections.append("## Times\n\nNot measured: torch is not installed.")
    page = "\n\n".join(sections) + "\n"
    print(page)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.md").write_text(page)
    return 1 if places or any(row[-1] == "differs" for row in numbers) else 0


if __name__ == "__main__":
    sys.exit(main())

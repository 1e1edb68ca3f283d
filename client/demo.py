"""`make demo`: a server, its layers, attributions of one digit that refine while they arrive, a table, a picture.

Needs a checkout (the digits model lies with the tests) and the extras `server` and `plot`.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnx_attribution.client.client import Client
from onnx_attribution.client.render import draw
from onnx_attribution.methods import DeepLiftRescale, NeuronIG
from onnx_attribution.values import Array, Attribution, Completed, LayerInfo, Revision

DIGITS = Path(__file__).resolve().parents[1] / "tests" / "data" / "digits"
MODEL = "digits"
STARTUP_SECONDS = 60.0
FIRST_STEPS, TOLERANCE, MAX_STEPS = 8, 0.01, 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description="An attribution, from server to picture.")
    parser.add_argument("--digit", type=int, default=3, help="which of the held-out digits")
    parser.add_argument("--output", type=Path, default=Path("demo.png"), help="where the picture goes")
    options = parser.parse_args(arguments)
    if not (DIGITS / "digits.onnx").is_file():
        print(
            "the demo needs a checkout of the repository: its model is in tests/data/digits", file=sys.stderr
        )
        return 2
    with np.load(DIGITS / "digits.npz") as data:
        images, labels = data["images"], data["labels"]
    if not 0 <= options.digit < len(images):
        print(f"--digit is {options.digit}; there are the digits 0 to {len(images) - 1}", file=sys.stderr)
        return 2
    image, label = images[options.digit : options.digit + 1], int(labels[options.digit])

    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then too
    with serving(DIGITS) as address, Client(address) as client:
        print(f"server on {address}; digit {options.digit}, a {label}:\n{drawn(image[0, 0])}\n")
        layer = last_convolution(client.layers(MODEL))
        answers = [
            refined(client, image, label, layer),
            client.attribute(MODEL, image, method=DeepLiftRescale(), layers=[layer], target=label),
        ]
    print("server stopped\n")
    print_table(answers)
    draw(options.output, answers, images=image)
    print(f"\npicture: {options.output}; {time.monotonic() - started:.1f} s in all")
    return 0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of the folder's models, in a process of its own that ends with the block."""
    command = [
        sys.executable,
        "-m",
        "onnx_attribution.server.cli",
        "serve",
        str(folder),
        "--port",
        "0",
        "--json",
    ]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        late = threading.Timer(STARTUP_SECONDS, process.kill)
        late.start()
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            late.cancel()
            if not line:
                log.seek(0)
                raise SystemExit(f"the server did not start:\n{log.read()}")
            yield str(json.loads(line)["address"])
        finally:
            late.cancel()
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def last_convolution(layers: Sequence[LayerInfo]) -> str:
    """Prints the layers; returns the one that is explained."""
    chosen = [layer.name for layer in layers if layer.operator == "Conv"][-1]
    print(f"{len(layers)} layers:")
    for layer in layers:
        shape = " x ".join(map(str, layer.shape or ()))
        mark = "  <- explained below" if layer.name == chosen else ""
        print(f"  {layer.name:8} {layer.operator:8} {shape:16} {'cut' if layer.cut else '':4}{mark}".rstrip())
    print()
    return chosen


def refined(client: Client, image: Array, label: int, layer: str) -> Attribution:
    """Streams Neuron Integrated Gradients and prints each revision as it comes; returns the best."""
    method = NeuronIG(steps=FIRST_STEPS, tolerance=TOLERANCE, max_steps=MAX_STEPS)
    print(f"{method.name} of {layer!r}, target logits[{label}], until the error is 1 % of the attributions:")
    revisions: dict[int, Attribution] = {}
    started = time.monotonic()
    with client.stream(MODEL, image, method=method, layers=[layer], target=label) as stream:
        for event in stream:
            match event:
                case Revision(number, answer):
                    revisions[number] = answer
                    one = answer.layers[layer]
                    share = one.error_estimate[0] / np.abs(one.values[0]).sum()
                    print(
                        f"  {time.monotonic() - started:5.2f} s  revision {number}: {answer.steps:4} steps, "
                        f"sum {one.sum[0]:8.4f}, residual {one.residual[0]:8.4f}, "
                        f"estimated error {one.error_estimate[0]:7.4f} ({share:.1%})",
                        flush=True,
                    )
                case Completed(reason, best):
                    print(f"  {time.monotonic() - started:5.2f} s  {reason}; the best is revision {best}\n")
                    return revisions[best]
                case _:
                    pass
    raise SystemExit("the stream ended without a result")


def print_table(answers: Sequence[Attribution]) -> None:
    """Completeness: the sum of the attributions against the change of the target."""
    print(
        f"{'method':18}{'layer':8}{'F(x)':>9}{'F(baseline)':>13}{'sum':>9}{'residual':>11}{'L1 error':>10}{'rows':>6}"
    )
    for answer in answers:
        value, base = answer.target.value[0], answer.target.baseline_value[0]
        for name, layer in answer.layers.items():
            error = layer.error_estimate[0]
            print(
                f"{answer.method:18}{name:8}{value:9.4f}{base:13.4f}{layer.sum[0]:9.4f}{layer.residual[0]:11.2e}"
                f"{'-' if np.isnan(error) else f'{error:.4f}':>10}{answer.evaluations:6}"
            )


def drawn(image: Array) -> str:
    """The digit in characters."""
    shades = np.array(list(" .:-=+*#%@"))
    levels = np.clip(np.asarray(image, np.float64) * 9, 0, 9).astype(int)
    return "\n".join("  " + "".join(shade * 2 for shade in row) for row in shades[levels])


if __name__ == "__main__":
    sys.exit(main())

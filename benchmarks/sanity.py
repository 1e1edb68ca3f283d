"""What is known of methods under randomised parameters, on trained models: whether it holds on each, with intervals.

    python -m benchmarks.sanity                 three models and 50 inputs; about 5 minutes; writes results/sanity.md
    python -m benchmarks.sanity --inputs 10     fewer inputs, nothing is written

The models and the digits of MNIST are those of ONNX_ATTRIBUTION_TEST_DATA; CIFAR-10 has 10 labelled images there, and
noisy copies make 50 of them. The claims are those of arXiv 1810.03292, 1912.09818 and 2012.00362, as an order: the
difference of two methods, input by input, has an interval above 0. A claim that a model contradicts is said to be.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.metrics.interval import Interval, interval
from onnx_attribution.client.audit.metrics.metric import mean_of_known
from onnx_attribution.client.audit.metrics.randomisation import (
    Randomisation,
    model_parameter_randomisation,
    permuted,
)
from onnx_attribution.client.audit.metrics.sensitivity import compared, other_classes
from onnx_attribution.client.audit.subject import Subject
from onnx_attribution.graph_tools.programs.learnt import blocks_of
from onnx_attribution.methods import IntegratedGradients, Lrp, Method, SmoothGrad
from onnx_attribution.server.engine import Engine

RESULTS = Path(__file__).parent / "results" / "sanity.md"
NAMES = ("spearman", "spearman_absolute", "ssim")
METHODS: dict[str, Method | str] = {
    "gradient": "gradient",
    "smoothgrad": SmoothGrad(draws=8),
    "integrated_gradients": IntegratedGradients(steps=32),
    "deeplift_rescale": "deeplift_rescale",
    "guided_backprop": "guided_backprop",
    "deconvnet": "deconvnet",
    "rectgrad": "rectgrad",
    "grad_cam": "grad_cam",
    "hires_cam": "hires_cam",
    "grad_cam_pp": "grad_cam_pp",
    "full_grad": "full_grad",
    "lrp_epsilon": Lrp(),
    "lrp_zplus": Lrp(rule="zplus"),
}
SIGNED = (
    "gradient",
    "smoothgrad",
    "integrated_gradients",
    "deeplift_rescale",
    "grad_cam",
    "hires_cam",
    "lrp_epsilon",
)
CAMS = ("grad_cam", "hires_cam", "grad_cam_pp")
"""Of the last convolution, whose values stay until it is drawn anew: only the weights of its channels change."""
MAPS_OF_A_LAYER = "while only its channel weights change"
POSITIVE = ("guided_backprop", "deconvnet", "rectgrad", "grad_cam_pp", "full_grad", "lrp_zplus")


@dataclass(frozen=True)
class Trained:
    """A model file, and images in its form."""

    name: str
    file: Path
    input: str
    images: NDArray[np.float32]
    logit: bool = False


@dataclass(frozen=True)
class Claim:
    """An order that is expected, and the difference of each input that is to be above 0."""

    words: str
    difference: Interval

    @property
    def verdict(self) -> str:
        if self.difference.low > 0:
            return "holds"
        return "contradicted" if self.difference.high < 0 else "open"

    def row(self) -> str:
        one = self.difference
        return f"| {self.words} | {one.value:.3f} ({one.low:.3f} to {one.high:.3f}) | {self.verdict} |"


RECTIFIED = 4
"""Times as many inputs of the model of which a rectifier is last: where that stops the target all maps are constant."""


def models(folder: Path, count: int) -> Iterator[Trained]:
    """The trained models, each with so many inputs."""
    with np.load(folder / "models" / "_samples" / "mnist_t10k_first2000.npz") as held:
        digits = held["x"][: RECTIFIED * count, None].astype(np.float32) / 255
    place = folder / "models"
    normalised = ((digits - 0.1307) / 0.3081).astype(np.float32)
    yield Trained(
        "mnist-cnn-pytorch", place / "mnist-cnn-pytorch" / "model.onnx", "0", normalised, logit=True
    )
    last = np.moveaxis(digits, 1, -1)
    yield Trained(
        "mnist-cnn-maxpool-marabou",
        place / "mnist-cnn-maxpool-marabou" / "model.onnx",
        "conv2d_input",
        last[:count],
    )
    with np.load(place / "cifar10-wide-kw" / "examples.npz") as held:
        images = held["x"]
    copies = np.concatenate([images] * -(-count // len(images)))[:count]
    copies[len(images) :] += np.random.default_rng(0).normal(0, 0.05, copies[len(images) :].shape)
    yield Trained(
        "cifar10-wide-kw", place / "cifar10-wide-kw" / "model.onnx", "input", copies.astype(np.float32)
    )


def claims(run: Randomisation, other: Mapping[str, Mapping[str, Floats]], above: int) -> Iterator[Claim]:
    """What is expected of a cascade, whose first `above` blocks are above the last convolution, and of maps of another
    class, where the methods have maps."""
    known = run.originals.keys()
    top = run.stages[0].similarity
    for name in ("gradient", "smoothgrad"):
        chance = compared(run.originals[name], permuted(run.originals[name]), names=("spearman",))["spearman"]
        yield Claim(
            f"{name} at the top block: less than 0.5 above chance",
            interval(chance + 0.5 - top[name]["spearman"]),
        )
    for positive in POSITIVE:
        for signed in SIGNED:
            if {positive, signed} <= known:
                left, right = (run.scores(name, "spearman") for name in (positive, signed))
                yield Claim(f"cascade: {positive} more alike than {signed}", interval(left - right))
    for positive in POSITIVE:
        for signed in SIGNED:
            if {positive, signed} <= known:
                difference = other[positive]["spearman"] - other[signed]["spearman"]
                yield Claim(f"other class: {positive} more alike than {signed}", interval(difference))
    curve = run.curve("guided_backprop", "spearman")
    yield Claim(
        "guided_backprop: more alike after the top block than after all", interval(curve[0] - curve[-1])
    )
    for name in CAMS:
        curve = run.curve(name, "spearman")
        yield Claim(
            f"{name}: more alike {MAPS_OF_A_LAYER} than with the last convolution drawn anew",
            interval(mean_of_known(curve[:above]) - curve[above]),
        )
        yield Claim(
            f"{name}: more alike than gradient {MAPS_OF_A_LAYER}",
            interval(mean_of_known(curve[:above]) - mean_of_known(run.curve("gradient", "spearman")[:above])),
        )
    for name in ("integrated_gradients", "deeplift_rescale"):
        absolute = run.scores(name, "spearman_absolute")
        difference = absolute - run.scores(name, "spearman")
        yield Claim(f"{name}: magnitudes more alike than signed ranks", interval(difference))
        yield Claim(
            f"{name}: magnitudes more alike than those of gradient",
            interval(absolute - run.scores("gradient", "spearman_absolute")),
        )


def measured(one: Trained, engine: Engine) -> list[str]:
    """The lines of one model."""
    began = time.monotonic()
    engine.add(one.name, one.file)
    subject, inputs = Subject(engine, one.name, logit=one.logit), {one.input: one.images}
    classes = subject.classes(inputs)
    run = model_parameter_randomisation(subject, METHODS, inputs, classes, names=NAMES, most=12)
    drawn = other_classes(subject.scores(inputs), seed=1)
    other = {
        name: compared(run.originals[name], subject.maps(method, inputs, drawn), names=NAMES)
        for name, method in METHODS.items()
    }
    blocks = blocks_of(onnx.load(one.file), most=12)
    above = next(k for k, block in enumerate(blocks) if "Conv" in block.operators)
    assert [stage.block for stage in run.stages] == [block.name for block in blocks]
    found = list(claims(run, other, above))
    counts = {word: sum(one.verdict == word for one in found) for word in ("holds", "open", "contradicted")}
    lines = [f"## {one.name}", "", f"{len(one.images)} inputs. Of {len(found)} claims " + ", ".join(
        f"{count} {word}" for word, count in counts.items()) + ".", ""]  # fmt: skip
    lines += ["| after | " + " | ".join(METHODS) + " |", "|---|" + "---:|" * len(METHODS)]
    for k, stage in enumerate(run.stages):
        cells = [f"{interval(stage.similarity[name]['spearman']).value:.2f}" for name in METHODS]
        word = ", the last convolution" if k == above else ""
        lines.append(f"| `{stage.block}`{word} | " + " | ".join(cells) + " |")
    cells = [f"{interval(other[name]['spearman']).value:.2f}" for name in METHODS]
    lines += ["| another class | " + " | ".join(cells) + " |", ""]
    each = [*(stage.similarity for stage in run.stages), other]
    counts_of = {name: [interval(one[name]["spearman"]).count for one in each] for name in METHODS}
    lines[-1:] = [
        "| inputs with a number | " + " | ".join(str(min(one)) for one in counts_of.values()) + " |",
        "",
    ]
    lines += ["| claim that does not hold | difference | |", "|---|---|---|"]
    lines += [one.row() for one in found if one.verdict != "holds" and MAPS_OF_A_LAYER not in one.words]
    lines += ["", "| claim of class activation maps | difference | |", "|---|---|---|"]
    lines += [one.row() for one in found if MAPS_OF_A_LAYER in one.words]
    print(*lines, f"({time.monotonic() - began:.0f} s)", sep="\n", flush=True)
    return [*lines, ""]


def main(arguments: list[str]) -> int:
    """Prints each model as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanity", description=__doc__)
    parser.add_argument("--inputs", type=int, default=50)
    parser.add_argument("--only", action="append")
    given = parser.parse_args(arguments)
    if not (folder := os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")):
        parser.error("ONNX_ATTRIBUTION_TEST_DATA names no folder")
    lines = [
        "# Methods under randomised parameters", "",
        "<!-- Written by `python -m benchmarks.sanity`. -->", "",
        "Signed rank correlation with the map of the trained model, after the parameters of each block and of those",
        "above it are drawn anew, and with the map of another class. A constant map has none,",
        "and an input with one is left out; as many as have all numbers stand under the table.",
        "Claims are orders of two methods; the difference is the mean over inputs, with its interval of 95 %.", "",
    ]  # fmt: skip
    with Engine(threads=2) as engine:
        for one in models(Path(folder), given.inputs):
            if not given.only or one.name in given.only:
                lines += measured(one, engine)
    if given.inputs >= 50 and not given.only:
        RESULTS.write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

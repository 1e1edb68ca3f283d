"""How good the supports of fb_trace are, beside those of maps that others make: `python -m benchmarks.fb_trace`

The trained models of `benchmarks.sanity` and 30 inputs of each; about 10 seconds of one processor; writes
results/fb_trace.md. A support is a tenth of the positions, those where a map is largest (|a|, over the
channels). Told of it: what the score loses when it is blotted out, in eight steps by the rank of its positions
(their mean, deletion), and what it has when all else is blotted out, less what a blank input has (insertion);
how many connected parts there are, and how much of the support the largest box holds; on digits whether the
strongest position is ink (pointing game), and the overlap of the box with that of the ink. And whether maps
tell classes and weights apart: the rank correlation with that of another class, and with the map after the top
block and after all blocks are drawn anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.sanity import Claim, Trained, models
from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.metrics.interval import interval
from onnx_attribution.client.audit.metrics.randomisation import model_parameter_randomisation
from onnx_attribution.client.audit.metrics.sensitivity import compared, other_classes
from onnx_attribution.client.audit.subject import Subject
from onnx_attribution.methods import DeconvNet, FbTrace, GradCam, GuidedBackprop, Method
from onnx_attribution.server.engine import Engine
from onnx_attribution.supports import layer_support

RESULTS = Path(__file__).parent / "results" / "fb_trace.md"
METHODS: dict[str, Method] = {
    "fb_trace signed": FbTrace(),
    "fb_trace positive": FbTrace(form="positive"),
    "grad_cam": GradCam(upsample="linear", relu_attributions=True),
    "guided_backprop": GuidedBackprop(),
    "deconvnet": DeconvNet(),
}
WHOLE: dict[str, Method] = {
    **METHODS,
    "fb_trace signed": FbTrace(tau=0.0),
    "fb_trace positive": FbTrace(form="positive", tau=0.0),
}
"""The same without a threshold, of which ranks are compared."""
CLAIMS = (
    ("deletion: signed loses more than random positions", "fb_trace signed", "random", "deletion"),
    ("insertion: signed has more than random positions", "fb_trace signed", "random", "insertion"),
    ("deletion: signed loses more than grad_cam", "fb_trace signed", "grad_cam", "deletion"),
    ("parts: those of deconvnet are more than those of positive", "deconvnet", "fb_trace positive", "parts"),
    (
        "overlap: the box of positive is nearer to the ink than that of guided_backprop",
        "fb_trace positive",
        "guided_backprop",
        "overlap",
    ),
    (
        "other class: positive is more alike than signed",
        "fb_trace positive",
        "fb_trace signed",
        "other class",
    ),
    (
        "other class: positive is more alike than guided_backprop",
        "fb_trace positive",
        "guided_backprop",
        "other class",
    ),
    ("all blocks: positive is more alike than signed", "fb_trace positive", "fb_trace signed", "all blocks"),
)
"""What is expected: the numbers of one in a column above those of another."""
BUDGET, STEPS = 0.1, 8
Score = Callable[[Floats], Floats]
Numbers = dict[str, Floats]


@dataclass(frozen=True)
class Place:
    """Where the channels of images lie, and what a position is blotted out with."""

    axis: int
    blank: Floats

    def strength(self, maps: Floats) -> Floats:
        """`[samples, H, W]`."""
        found: Floats = np.abs(maps).max(axis=self.axis)
        return found

    def without(self, images: Floats, gone: NDArray[np.bool_]) -> Floats:
        return np.where(np.expand_dims(gone, self.axis), self.blank, images)


def ranked(strength: Floats) -> NDArray[np.intp]:
    """`[samples, positions]`: the places, the strongest first, as many as a support has; those of 0 last."""
    flat = strength.reshape(len(strength), -1)
    return np.argsort(-flat, axis=1, kind="stable")[:, : max(int(BUDGET * flat.shape[1]), 1)]


def mask_of(order: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    found = np.zeros((len(order), shape[0] * shape[1]), bool)
    np.put_along_axis(found, order, True, axis=1)
    return found.reshape(len(order), *shape)


def supports(images: Floats, strength: Floats, place: Place, score: Score) -> Numbers:
    """What is told of the supports of maps."""
    shape, order = strength.shape[1:], ranked(strength)
    full = score(images)
    counts = [max(order.shape[1] * (k + 1) // STEPS, 1) for k in range(STEPS)]
    losses = [full - score(place.without(images, mask_of(order[:, :count], shape))) for count in counts]
    kept = mask_of(order, shape) & (strength > 0)
    alone = score(place.without(images, ~kept)) - score(np.broadcast_to(place.blank, images.shape))
    told = [layer_support(np.where(one, s, 0)[None], 0) for one, s in zip(kept, strength, strict=True)]
    largest = [
        max((box.size for box in one.boxes), default=0) / max(int(m.sum()), 1)
        for one, m in zip(told, kept, strict=True)
    ]
    return {
        "deletion": np.mean(losses, axis=0),
        "insertion": alone,
        "parts": np.array([one.parts for one in told], float),
        "largest part": np.array(largest),
    }


def on_ink(strength: Floats, ink: NDArray[np.bool_]) -> Numbers:
    """Of digits: whether the strongest position is ink, and the overlap of the strongest box with that of the ink."""
    order = ranked(strength)
    pointed = [bool(one.ravel()[places[0]]) for one, places in zip(ink, order, strict=True)]
    overlaps = []
    for one, s, kept in zip(ink, strength, mask_of(order, strength.shape[1:]), strict=True):
        found = np.zeros_like(one)
        for box in layer_support(np.where(kept, s, 0)[None], 0).boxes[:1]:
            found[box.top : box.bottom + 1, box.left : box.right + 1] = True
        rows, columns = np.flatnonzero(one.any(axis=1)), np.flatnonzero(one.any(axis=0))
        whole = np.zeros_like(one)
        whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        overlaps.append((found & whole).sum() / (found | whole).sum())
    return {"pointing": np.array(pointed, float), "overlap": np.array(overlaps)}


def measured(one: Trained, engine: Engine) -> Iterator[str]:
    """The lines of one model."""
    began, cpu = time.monotonic(), time.process_time()
    engine.add(one.name, one.file)
    subject, images = Subject(engine, one.name, logit=one.logit), one.images.astype(np.float64)
    classes = subject.classes({one.input: one.images})
    assert classes is not None
    axis = 1 if images.shape[1] < images.shape[-1] else 3
    digits = images.shape[axis] == 1
    ends = (
        images.min() if digits else images.mean(axis=tuple(k for k in range(4) if k != axis), keepdims=True)
    )
    place = Place(axis, np.asarray(ends))
    tensor = subject.scores_name()

    def score(given: Floats) -> Floats:
        found = np.asarray(
            engine.predict(one.name, {one.input: given.astype(np.float32)}, [tensor])[tensor], np.float64
        )
        found = np.log(np.maximum(found, 1e-12)) if one.logit and (found >= 0).all() else found
        return np.array([row[k] for row, k in zip(found.reshape(len(given), -1), classes, strict=True)])

    inputs = {one.input: one.images}
    maps = {name: subject.maps(method, inputs, classes) for name, method in METHODS.items()}
    strengths = {name: place.strength(_laid(each)) for name, each in maps.items()}
    strengths["random"] = np.random.default_rng(0).random(next(iter(strengths.values())).shape)
    drawn = other_classes(subject.scores(inputs), seed=1)
    run = model_parameter_randomisation(subject, WHOLE, inputs, classes, names=("spearman",))
    ink = np.squeeze(images > (images.min() + 0.3 * np.ptp(images)), axis) if digits else None
    columns = ["deletion", "insertion", "parts", "largest part", *(["pointing", "overlap"] if digits else [])]
    columns += ["other class", "top block", "all blocks"]
    yield f"## {one.name}\n"
    yield f"{len(images)} inputs.\n"
    yield "| method | " + " | ".join(columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    every: dict[str, Numbers] = {}
    for name, strength in strengths.items():
        every[name] = numbers = supports(images, strength, place, score)
        if ink is not None:
            numbers |= on_ink(strength, ink)
        if name in WHOLE:
            other = subject.maps(WHOLE[name], inputs, drawn)
            numbers["other class"] = compared(run.originals[name], other, names=("spearman",))["spearman"]
            curve = run.curve(name, "spearman")
            numbers |= {"top block": curve[0], "all blocks": curve[-1]}
        cells = [_cell(numbers.get(column)) for column in columns]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield "| claim | difference | |"
    yield "|---|---|---|"
    for words, better, worse, column in CLAIMS:
        if column in columns:
            yield Claim(words, interval(every[better][column] - every[worse][column])).row()
    print(
        f"{one.name}: {time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of the processor",
        flush=True,
    )
    yield ""


def _laid(maps: Mapping[str, Floats]) -> Floats:
    """The only map, `[samples, *image]`."""
    (found,) = maps.values()
    return found.reshape(len(found), *found.shape[-3:])


def _cell(values: Floats | None) -> str:
    if values is None:
        return "-"
    found = interval(values)
    return f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"


def main(arguments: list[str]) -> int:
    """Prints each model as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fb_trace", description=__doc__)
    parser.add_argument("--inputs", type=int, default=30)
    given = parser.parse_args(arguments)
    if not (folder := os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")):
        parser.error("ONNX_ATTRIBUTION_TEST_DATA names no folder")
    text = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    lines = [
        "# Supports of fb_trace",
        "",
        "<!-- Written by `python -m benchmarks.fb_trace`. -->",
        "",
        text,
        "",
    ]
    lines += [
        "Means over the inputs, with intervals of 95 %. Scores are logits, or logarithms of probabilities.",
        "",
    ]
    with Engine(threads=2) as engine:
        for one in models(Path(folder), given.inputs):
            for line in measured(one, engine):
                lines.append(line)
                print(line, flush=True)
    if given.inputs >= 30:
        RESULTS.write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

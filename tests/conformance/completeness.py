"""Whether DeepLIFT sums to the change of the target: `python -m tests.conformance.completeness [--all-layers] [files]`.

For each model file and rule: x is the model's example, x' is zeros; where that moves nothing, a size depends on the
data, or multipliers overflow (a normalisation of zeros multiplies by 1/sqrt(epsilon), in every block once more), x' is
half of x, and the line says so. The target is the element of the first float output that changes most; where a softmax
is so saturated that none changes at all, its logit. One program holds the
sources and every cut layer between them and the target; a model whose layers hold more than `HEAVY` elements has a
program for every `FEW` of them. Models with equal weights or a huge image are changed first (`examples.usable`). The
residual is `|sum C - delta| / sum |C|`.

The program is run by onnxruntime in float32. Where that is above `TOLERANCE`, a program of the same network in float64
is run by the reference implementation, where it can: float32 loses digits where two large numbers nearly cancel, a rule
that does not sum loses them in both. The table shows both figures; a model fails only if no figure is within its
tolerance. A target that does not change, with no contribution at all, counts as 0.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_attribution.errors import AttributionError
from onnx_attribution.graph_tools.programs.forward import forward_program
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.select.layers import layers_between
from onnx_attribution.graph_tools.select.logits import logit_of
from onnx_attribution.graph_tools.select.targets import float_before_outputs, float_outputs
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import Array
from tests.checks import NARROW, to_double
from tests.conformance.float64 import run_double
from tests.data.examples import example_of, usable

TOLERANCE = 1e-5
DOUBLE_TOLERANCE = 1e-9
HEAVY = 40_000_000
FEW = 8
Build = Callable[..., Program]
RULES: dict[str, Build] = {
    "rescale": deeplift_program,
    "reveal_cancel": functools.partial(deeplift_program, reveal_cancel="everywhere"),
}


@dataclass(frozen=True)
class Line:
    """One layer of one model under one rule: the residual in float32, and in float64 where that was needed."""

    layer: str
    cut: bool
    rule: str
    single: float
    double: float | None = None
    reference: str = "0"

    @property
    def sums(self) -> bool:
        """Whether a figure is within its tolerance."""
        return self.single <= TOLERANCE or (self.double is not None and self.double <= DOUBLE_TOLERANCE)


@dataclass(frozen=True)
class Answer:
    """What a model gave: its lines, or by rule why there are none."""

    model: str
    lines: tuple[Line, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    layers: int = 0
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether a cut layer does not sum."""
        return any(line.cut and not line.sums for line in self.lines)


def compare(path: Path, backend: Backend, rules: Sequence[str] = tuple(RULES)) -> Answer:
    """The answer of one model file."""
    started, name = time.monotonic(), path.parent.name
    try:
        given, shapes = example_of(path)
        model = LoadedModel(path, backend, given=given, shapes=shapes)
        target, sources = _target_and_sources(model)
        points = list(_points(model, sources, target))
        logit = logit_of(model.graph, target)
        if not points and logit is not None:
            target = logit.tensor
            points = list(_points(model, sources, target))
        if not points:
            raise AttributionError(f"{target!r} is the same at every reference tried")
        cuts = [
            x.name for x in layers_between(model.graph, sources, target) if x.cut and x.name not in sources
        ]
        groups = _groups(model, cuts)
    except Exception as error:  # a model without float outputs has no target, in many ways
        return Answer(name, refused={"all": _first(error)}, seconds=time.monotonic() - started)
    lines: list[Line] = []
    refused: dict[str, str] = {}
    for rule in rules:
        try:
            found: list[Line] = []
            for reference, inputs, weight in points:
                found = _lines(model, rule, sources, groups, target, inputs, weight)
                found = [replace(line, reference=reference) for line in found]
                if all(np.isfinite(line.single) for line in found):
                    break
            lines += found
        except AttributionError as error:
            refused[rule] = _first(error)
    return Answer(name, tuple(lines), refused, len(cuts), time.monotonic() - started)


def _target_and_sources(model: LoadedModel) -> tuple[str, tuple[str, ...]]:
    outputs = float_outputs(model.graph)
    before = float_before_outputs(model.graph)
    failure: AttributionError | None = None
    for target in outputs or ([before] if before else []):
        try:
            return target, model.sources((), target)
        except AttributionError as error:
            failure = error
    raise failure or AttributionError("no float tensor leads to an output")


def _groups(model: LoadedModel, cuts: Sequence[str]) -> list[list[str]]:
    """The cut layers that share a program: all of them in a model of moderate size."""
    size = FEW if model.bytes_per_row(model.network.example) // 8 > HEAVY else max(len(cuts), 1)
    return [list(cuts[k : k + size]) for k in range(0, max(len(cuts), 1), size)]


def _points(
    model: LoadedModel, sources: tuple[str, ...], target: str
) -> Iterator[tuple[str, dict[str, Array], Array]]:
    """The references in words, the inputs of the program at x and x', and the weight of what changes most."""
    example = dict(model.network.example)
    hidden = [s for s in sources if s not in example]
    at_x = model.backend.run(model.network.model, example, [target, *hidden])
    full = {**example, **{n: at_x[n] for n in hidden}}
    forward = model.backend.session(forward_program(model.network, [target], sources).model)
    there = None
    for name, factor in (("0", 0.0), ("x/2", 0.5)):
        reference = {s: np.asarray(full[s] * np.asarray(factor, full[s].dtype)) for s in sources}
        with contextlib.suppress(AttributionError):
            (there,) = forward.run({**full, **reference}).values()
        if there is None or there.shape != at_x[target].shape:
            continue
        change = np.abs(at_x[target].astype(np.float64) - there.astype(np.float64))
        change = np.nan_to_num(change, posinf=0, neginf=0)
        if change.max(initial=0) == 0:
            continue
        weight = np.zeros(change.size)
        weight[int(change.argmax())] = 1
        fed = {**full, **{f"baseline/{s}": a for s, a in reference.items()}}
        yield name, fed, weight.reshape(change.shape).astype(at_x[target].dtype)
    if there is None:
        raise AttributionError("the model does not run at a reference")


def _lines(
    model: LoadedModel,
    rule: str,
    sources: tuple[str, ...],
    groups: Sequence[Sequence[str]],
    target: str,
    inputs: Mapping[str, Array],
    weight: Array,
) -> list[Line]:
    """The lines of one rule, a program for each group of layers; the sources together are a line of their own."""
    fed = {**inputs, "target/weight": weight}
    single: dict[str, float] = {}
    for layers in groups:
        choice = Choice(sources, (*sources, *layers), target)
        program = RULES[rule](model.network, choice)
        single |= _residuals(choice, model.backend.session(program.model).run(fed))
    far = [name for name, residual in single.items() if residual > TOLERANCE]
    wanted = Choice(sources, (*sources, *(name for name in far if name != " + ".join(sources))), target)
    double = _in_double(model, rule, wanted, fed) if far else {}
    return [
        Line(name, True, rule, single[name], double.get(name) if name in far else None) for name in single
    ]


def _in_double(model: LoadedModel, rule: str, choice: Choice, fed: Mapping[str, Array]) -> dict[str, float]:
    """The residuals of the same network in float64; none where the reference implementation cannot run it."""
    try:
        double = to_double(model.network.model)
        known = {v.name for v in [*double.graph.value_info, *double.graph.output, *double.graph.input]}
        for value in model.network.model.graph.value_info:
            if value.name not in known:
                wide = double.graph.value_info.add()
                wide.CopyFrom(value)
                if value.type.tensor_type.elem_type in NARROW:
                    wide.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        network = replace(model.network, model=double)
        program = RULES[rule](network, choice)
        return _residuals(choice, run_double(program.model, fed))
    except Exception as error:  # it lacks an operator, or a form of it
        print(f"  no float64: {type(error).__name__}: {_first(error)}", file=sys.stderr)
        return {}


def _residuals(choice: Choice, found: Mapping[str, Any]) -> dict[str, float]:
    """By layer, and by the sources together, the residual relative to the sum of absolute contributions."""
    parts = {n: found[f"contribution/{n}"].astype(np.float64) for n in choice.layers}
    delta = float(
        found["target/value"].astype(np.float64).sum() - found["target/baseline"].astype(np.float64).sum()
    )

    def residual(*arrays: Any) -> float:
        total, size = sum(float(a.sum()) for a in arrays), sum(float(np.abs(a).sum()) for a in arrays)
        value = abs(total - delta) / size if size else abs(total - delta)
        return value if np.isfinite(value) else float("inf")

    inner = {n: residual(parts[n]) for n in choice.layers if n not in choice.sources}
    return {" + ".join(choice.sources): residual(*(parts[s] for s in choice.sources)), **inner}


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def model_files() -> list[Path]:
    """The model files that are given by the environment."""
    folder = os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")
    return sorted(Path(folder).glob("models/*/model.onnx")) if folder else []


def main(arguments: Sequence[str]) -> int:
    """Prints the table; 0 if every cut layer of every model that is not refused sums."""
    parser = argparse.ArgumentParser(prog="completeness")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--all-layers", action="store_true", help="a line for each layer, not for the worst")
    parser.add_argument("--rule", choices=tuple(RULES), action="append")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    backend = Backend("cpu")
    answers = []
    print(f"{'model':30} {'rule':15} {'cuts':>9} {'float32':>8} {'float64':>8}  layer")
    for path in asked.files or model_files():
        with tempfile.TemporaryDirectory() as folder:
            answer = compare(usable(path, Path(folder)), backend, asked.rule or tuple(RULES))
        answers.append(answer)
        _show(answer, asked.all_layers)
    attributable = [a for a in answers if a.lines]
    wrong = [a.model for a in answers if a.failed]
    print(
        f"{len(attributable) - len(wrong)} of {len(attributable)} attributable models sum at every cut layer, "
        f"{len(answers) - len(attributable)} refused; do not sum: {', '.join(wrong) or 'none'}"
    )
    return 1 if wrong else 0


def _show(answer: Answer, every: bool) -> None:
    for rule, reason in answer.refused.items():
        print(f"{answer.model:30} {rule:15} refused: {reason}", flush=True)
    for rule in dict.fromkeys(line.rule for line in answer.lines):
        lines = [line for line in answer.lines if line.rule == rule]
        worst = max(lines, key=lambda line: (not line.sums, line.single))
        for line in lines if every else [worst]:
            double = "-" if line.double is None else f"{line.double:.0e}"
            verdict = "" if line.sums else "DOES NOT SUM: "
            verdict += "" if line.reference == "0" else f"(x' = {line.reference}) "
            print(
                f"{answer.model:30} {rule:15} {answer.layers:>9} {line.single:8.0e} {double:>8}  {verdict}{line.layer} "
                f"({answer.seconds:.1f} s)",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Tries one file of a wheel: the verdict, its gradient against differences, and what the defaults answer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from onnx_attribution.errors import AttributionError
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.check import Verdict, check_file
from onnx_attribution.values import Array, Attribution, AttributionRequest, Target
from tests.conformance.gradients import TOLERANCE, Row, compare
from tests.conformance.run import OutOfTimeError, time_limit
from tests.wild.models import Model

LIMIT = 300  # seconds of processor time a file
SILENT = 0.05  # of the change: what an answer may miss without a word
SAME = (
    1e-3  # of the largest: two samples in one run round otherwise than one, and take the other side of a kink
)
ROUNDING = 1e-5  # of the target's size: a change below it is no change in float32
DEFAULTS: tuple[str, ...] = ("integrated_gradients", "neuron_ig")


@dataclass(frozen=True)
class Job:
    """A file that is there, and what is expected of it."""

    name: str
    path: Path
    model: Model


@dataclass(frozen=True)
class Line:
    """What was found of one file: `wrong` holds everything that is not as it must be."""

    name: str
    batch: str = ""
    facts: Sequence[str] = ()
    refused: str = ""
    wrong: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """One word: wrong, refused or right."""
        return "wrong" if self.wrong else "refused" if self.refused else "right"

    def text(self) -> str:
        """The line."""
        facts = [*self.facts, *([self.refused] if self.refused else []), *self.wrong]
        return f"{self.verdict:8} {self.name:58} {self.batch:8} {'; '.join(facts)} ({self.seconds:.0f} s)"


@dataclass
class _Findings:
    facts: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def alone(job: Job) -> Line:
    """The line of one file, in a process that does nothing else."""
    onnxruntime.set_default_logger_severity(3)  # the files declare shapes that are false
    return tried(job)


def tried(job: Job) -> Line:
    """The line of one file; an error of any kind is a wrong answer."""
    warnings.simplefilter("ignore")
    started, found, batch, refused = time.monotonic(), _Findings(), "", ""
    try:
        with time_limit(LIMIT):
            verdict = check_file(job.path, Backend("cpu", 1))
            if job.model.undrawn and job.model.undrawn in reasons(verdict):
                found.facts.append("random inputs do not do")
                verdict = check_file(job.path, Backend("cpu", 1), example=job.model.inputs)
            batch = verdict.batch or ""
            refused = judged(verdict, job.model, found.wrong)
            if not refused:
                row = compare(job.path, Backend("cpu", 1), job.model.inputs, target=job.model.target)
                believed(row, found.facts, found.wrong)
                with Engine(provider="cpu", threads=1) as engine:
                    engine.add("model", job.path, example=job.model.inputs)
                    for text in answers(engine, job, found.wrong):
                        found.facts.append(text)
    except OutOfTimeError:
        found.wrong.append(f"more than {LIMIT} s of processor time")
    except Exception as error:
        kind = "" if isinstance(error, AttributionError) else f"{type(error).__name__}: "
        found.wrong.append(kind + (str(error).splitlines() or [""])[0][:300])
    return Line(job.name, batch, found.facts, refused, found.wrong, time.monotonic() - started)


def judged(verdict: Verdict, model: Model, wrong: list[str]) -> str:
    """The reason of a refusal, which is wrong where it was not expected, or where its words were not."""
    why = reasons(verdict)
    if verdict.attributable:
        wrong += [f"it has a gradient; expected a refusal for {model.refused}"] if model.refused else []
        return ""
    if not model.refused or model.refused not in why:
        wrong.append("the refusal is not expected")
    return f"refused: {why[:300]}"


def reasons(verdict: Verdict) -> str:
    """Why a file is refused, with the operators that stand in the way."""
    return "; ".join(f"{r['operator']} {r['reason']}".strip() for r in verdict.refused)


def believed(row: Row, facts: list[str], wrong: list[str]) -> None:
    """Whether the gradient agrees with differences in float64 at every layer tried."""
    if row.refused or row.broken:
        wrong.append(f"no comparison in float64: {row.refused or row.broken}")
        return
    worst = max(row.errors, key=lambda layer: row.errors[layer].best)
    facts.append(f"gradient {row.errors[worst].best:.0e} off at {len(row.errors)} layers")
    if not row.agrees:
        wrong.append(f"the gradient of {worst!r} is off by more than {TOLERANCE:g}")


# --- What the defaults answer


def answers(engine: Engine, job: Job, wrong: list[str]) -> Iterator[str]:
    """What path methods with their defaults miss, and whether two samples are as each alone."""
    target = Target(job.model.target, job.model.element)
    for method in DEFAULTS:
        answer = engine.attribute(AttributionRequest("model", job.model.inputs, method, target=target))
        yield f"{method} {missed(answer, wrong)}"
        if method == DEFAULTS[0] and not has_value(job, answer):
            wrong.append(f"the target is {answer.target.value[0]:.6g}, which the file does not hold")
    yield two_samples(engine, job, target, wrong)


def missed(answer: Attribution, wrong: list[str]) -> str:
    """The share of the change that the sum of all sources misses, in words; wrong where the answer does not say so."""
    if not all(np.isfinite(layer.values).all() for layer in answer.layers.values()):
        said = any("NaN" in text for text in answer.warnings)
        wrong += [] if said else [f"{answer.method} holds NaN without a word"]
        return "NaN (said)" if said else "NaN"
    change = float(answer.target.value[0] - answer.target.baseline_value[0])
    residual = float(sum(layer.sum[0] for layer in answer.layers.values()) - change)
    size = float(max(abs(answer.target.value[0]), abs(answer.target.baseline_value[0])))
    share = residual / change if change else np.inf if residual else 0.0
    said = any("miss" in text for text in answer.warnings)
    if abs(share) > SILENT and abs(residual) > ROUNDING * size and not said:
        wrong.append(f"{answer.method} misses {share:.0%} of the change {change:.3g} without a word")
    return f"residual {share:.1e}" + (" (said)" if said else "")


def has_value(job: Job, answer: Attribution) -> bool:
    """Whether the file, run as it is, has the explained value in the tensor that is explained."""
    session = onnxruntime.InferenceSession(str(job.path), providers=["CPUExecutionProvider"])
    if answer.target.tensor not in [z.name for z in session.get_outputs()]:
        return True  # a hidden tensor
    (found,) = session.run([answer.target.tensor], dict(job.model.inputs))
    value = float(answer.target.value[0])
    apart = np.abs(np.asarray(found, np.float64) - value)
    return bool(apart.min() <= 1e-4 * max(float(np.abs(found).max()), 1e-6))


def two_samples(engine: Engine, job: Job, target: Target, wrong: list[str]) -> str:
    """Whether the gradients of two samples that are sent together are those of each alone."""
    axes = {x.name: x.batch_axis for x in engine.info("model").inputs}
    one = job.model.inputs
    two = {n: a if shared(axes, n) else _other(a) for n, a in one.items()}
    try:
        together = _gradients(engine, {n: joined(axes, n, a, two[n]) for n, a in one.items()}, target)
    except AttributionError as error:
        return f"2 samples are refused: {str(error).splitlines()[0][:120]}"
    for k, alone in enumerate((one, two)):
        for name, expected in _gradients(engine, alone, target).items():
            apart = float(np.abs(together[name][k] - expected[0]).max(initial=0))
            if not apart <= SAME * float(np.abs(expected).max(initial=0)):
                wrong.append(f"sample {k} of 2: the gradient of {name!r} is {apart:.2g} off")
    return "2 samples as alone"


def _other(array: Array) -> Array:
    """Another sample like this one."""
    if array.ndim and array.dtype.kind == "f":
        return np.asarray(0.7 * np.roll(array.astype(np.float64), 1, axis=-1)).astype(array.dtype)
    return np.roll(array, 1, axis=-1) if array.ndim else array


def shared(axes: Mapping[str, int | None], name: str) -> bool:
    """Whether an input has no axis of samples, beside others that have one."""
    return axes[name] is None and any(axis is not None for axis in axes.values())


def joined(axes: Mapping[str, int | None], name: str, one: Array, two: Array) -> Array:
    """Both samples of an input: along its axis, in front where no input has one, once where others have one."""
    axis = axes[name]
    if axis is not None:
        return np.concatenate([one, two], axis=axis)
    return np.stack([one, two]) if one.ndim and not shared(axes, name) else one


def _gradients(engine: Engine, inputs: Mapping[str, Array], target: Target) -> dict[str, Array]:
    answer = engine.attribute(AttributionRequest("model", inputs, "gradient", target=target))
    return {name: layer.values.astype(np.float64) for name, layer in answer.layers.items()}

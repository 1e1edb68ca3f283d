"""Runs one case: its gradient, that of its twin, its second derivative, or that of a real model."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.server.engine.backend import Backend, available_cores
from tests import checks
from tests.conformance import cases, gradients
from tests.conformance.cases import Case
from tests.conformance.report import Outcome
from tests.data.examples import example_of, usable

Array = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")
SAME = 1e-4
SAME_HALF = 2e-2
LIMIT = 150  # seconds of processor time a model; what takes longer fails


def case_outcome(operator: str, name: str, smooth: int, part: str) -> Outcome:
    """A frozen case against its oracle."""
    try:
        case = cases.official(operator, name, smooth, part)
    except Exception as error:
        return Outcome(name, operator, part, "fail", _line(error))
    return outcome(case)


def outcome(case: Case, seeds: Sequence[int] = (0,)) -> Outcome:
    """Whether enough inputs agree with the oracle, and none differs."""
    started = time.monotonic()
    try:
        agreeing, wrong = agreement(case, seeds)
        verdict = "pass" if agreeing >= max(case.smooth, 1) and not wrong else "fail"
        detail = "; ".join(wrong) if wrong else f"{agreeing} of {max(case.smooth, 1)} inputs agree"
    except Exception as error:
        verdict, detail = "fail", _line(error)
    return Outcome(case.id, case.operator, case.part, verdict, detail, time.monotonic() - started)


def agreement(case: Case, seeds: Sequence[int]) -> tuple[int, list[str]]:
    """How many float inputs agree, and what differs; an input that is refused by name counts as neither."""
    agreeing, wrong = 0, []
    for x in float_inputs(case.model):
        try:
            found = checks.check_gradient(
                case.model,
                case.inputs,
                wrt=[x],
                seeds=seeds,
                forms=case.forms,
                tolerance=case.tolerance,
            )
        except NotDifferentiable:  # the sizes of a Resize, the ratio of a Dropout
            continue
        wrong += [
            f"{c.input} ({c.form}): {c.found:.6g}, {c.oracle} {c.expected:.6g}"
            for c in found
            if c.verdict == "fail"
        ]
        agreeing += all(c.verdict == "pass" for c in found)
    return agreeing, wrong


def float_inputs(model: onnx.ModelProto) -> list[str]:
    """The inputs of float types that are no constants."""
    held = {t.name for t in model.graph.initializer}
    kinds = {x.name: x.type.tensor_type.elem_type for x in model.graph.input}
    return [name for name, kind in kinds.items() if kind in checks.FLOATS and name not in held]


def twin_outcome(operator: str, name: str, twin: str) -> Outcome:
    """Whether the operator and its body have the same gradient for the same cotangents."""
    started = time.monotonic()
    try:
        detail = _difference(cases.official(operator, name, 1), cases.official(operator, twin, 1))
    except Exception as error:
        detail = _line(error)
    verdict = "fail" if detail else "pass"
    return Outcome(twin, operator, "twin", verdict, detail, time.monotonic() - started)


def _difference(plain: Case, twin: Case) -> str:
    """Which gradient differs, or nothing. Inputs that both refuse agree."""
    inputs = {
        y: plain.inputs[x]
        for x, y in zip(_inputs(plain.model), _inputs(twin.model), strict=True)
        if x in plain.inputs
    }
    rng = np.random.default_rng(5)
    cotangents: list[Array] = []
    for x, y in zip(float_inputs(plain.model), float_inputs(twin.model), strict=True):
        ours = _gradient(plain.model, plain.inputs, x, cotangents, rng)
        theirs = _gradient(twin.model, inputs, y, cotangents, rng)
        if ours is None or theirs is None:
            if (ours is None) != (theirs is None):
                return f"{x}: one form refuses, the other has a gradient"
            continue
        half = plain.inputs[x].dtype.itemsize < 4
        scale = max(float(np.abs(theirs).max(initial=0)), 1e-6)
        if not np.abs(ours - theirs).max(initial=0) <= (SAME_HALF if half else SAME) * scale:
            return f"{x}: {float(np.abs(ours - theirs).max()):.3g} apart, of {scale:.3g}"
    return ""


def _inputs(model: onnx.ModelProto) -> list[str]:
    return [x.name for x in model.graph.input]


def _gradient(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    name: str,
    cotangents: list[Array],
    rng: np.random.Generator,
) -> Array | None:
    """The gradient at one input, in float64; None where it is refused, zeros where no way leads."""
    try:
        graph, names = checks.gradient_model(model, [name])
    except NotDifferentiable:
        return None
    if not names:
        return np.zeros(inputs[name].shape)
    run = Backend("cpu", 1).session(graph)
    values = _cotangents(model, inputs, cotangents, rng)
    wanted = {x.name for x in graph.graph.input}
    fed = {k: v for k, v in {**inputs, **values}.items() if k in wanted}
    found: Array = run.run(fed)[names[name]].astype(np.float64)
    return found


def _cotangents(
    model: onnx.ModelProto, inputs: Mapping[str, Array], drawn: list[Array], rng: np.random.Generator
) -> dict[str, Array]:
    """Random numbers for every float output, the same for the twin, which names its outputs otherwise."""
    outputs = [z.name for z in model.graph.output if z.type.tensor_type.elem_type in checks.FLOATS]
    if not drawn or len(drawn) != len(outputs):
        shapes = Backend("cpu", 1).run(
            model, {k: v for k, v in inputs.items() if k in _inputs(model)}, outputs
        )
        drawn[:] = [rng.standard_normal(shapes[z].shape) for z in outputs]
    kinds = {
        z.name: onnx.helper.tensor_dtype_to_np_dtype(z.type.tensor_type.elem_type) for z in model.graph.output
    }
    return {f"v/{z}": v.astype(kinds[z]) for z, v in zip(outputs, drawn, strict=True)}


def double_outcome(operator: str, names: Sequence[str]) -> Iterator[Outcome]:
    """The second derivative of an operator's first smooth case, at its first input."""
    for name in names[:1]:
        started = time.monotonic()
        try:
            case = cases.official(operator, name, 1)
            x = float_inputs(case.model)[0]
            graph, found = checks.gradient_model(case.model, [x])
            values = {**case.inputs, **_cotangents(case.model, case.inputs, [], np.random.default_rng(6))}
            wanted = _inputs(graph)
            if not found or x not in wanted:
                return  # linear: the gradient does not depend on the input
            second = Case(
                f"double_{operator}",
                operator,
                "double",
                graph,
                {k: v for k, v in values.items() if k in wanted},
                1,
            )
            rows = checks.check_gradient(second.model, second.inputs, wrt=[x], seeds=(0,), forms=("fixed",))
            wrong = [f"{c.found:.6g}, {c.oracle} {c.expected:.6g}" for c in rows if c.verdict == "fail"]
            verdict, detail = ("fail" if wrong else "pass"), "; ".join(wrong)
        except NotDifferentiable as error:
            if "no way leads" in error.message:  # as above, through a mask or positions
                return
            verdict, detail = "fail", _line(error)
        except Exception as error:
            verdict, detail = "fail", _line(error)
        yield Outcome(f"double_{operator}", operator, "double", verdict, detail, time.monotonic() - started)


def model_outcomes(paths: Sequence[Path]) -> Iterator[Outcome]:
    """Real models, as many at once as there are cores."""
    yield from side_by_side(_model_outcome, paths)


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in order, from processes of one thread each, as many as there are cores."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for the processes to be
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(available_cores(), mp_context=context) as pool:
        yield from pool.map(work, items)


@contextlib.contextmanager
def time_limit(seconds: float = LIMIT) -> Iterator[None]:
    """Raises OutOfTimeError in the main thread when the processor has worked for longer."""
    signal.signal(signal.SIGVTALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _model_outcome(path: Path) -> Outcome:
    warnings.simplefilter("ignore")
    started, name = time.monotonic(), f"model/{path.parent.name}"
    try:
        with time_limit(), tempfile.TemporaryDirectory() as folder:
            row = gradients.compare(usable(path, Path(folder)), Backend("cpu", 1), *example_of(path))
    except OutOfTimeError:
        detail = f"it took more than {LIMIT} s of processor time"
        return Outcome(name, "", "model", "fail", detail, time.monotonic() - started)
    verdict = "refused" if row.refused else "pass" if row.agrees else "fail"
    errors = ", ".join(f"{layer} {e.best:.0e}" for layer, e in row.errors.items())
    return Outcome(name, "", "model", verdict, row.refused or row.broken or errors, row.seconds)


class OutOfTimeError(BaseException):
    """A model took longer than `LIMIT` seconds; nothing that expects errors may catch it."""


def _out_of_time(*_: object) -> None:
    raise OutOfTimeError


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"

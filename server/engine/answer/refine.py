"""The answer as it comes: runs, revisions of more steps until the tolerance is met, and the reason of the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from onnx_attribution.errors import Cancelled
from onnx_attribution.server.engine.answer.reduce import errors_of, layers_of
from onnx_attribution.server.engine.answer.warnings import Answered, warnings_of
from onnx_attribution.server.engine.methods import stages
from onnx_attribution.server.engine.methods.path import missed
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Path
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Sums, averaged
from onnx_attribution.values import (
    Accepted,
    Attribution,
    Completed,
    Event,
    Progress,
    ResolvedTarget,
    Revision,
    StopReason,
)

Stop = Callable[[], StopReason | Literal["cancelled"] | None]
PATIENCE = (0.5, 10.0)  # seconds beyond the time of the answer for a search of what would work, and at most


def events(
    model: LoadedModel, resolved: Resolved, stop: Stop, memory: int, started: float
) -> Iterator[Event]:
    """Accepted, Progress between runs, at least one Revision, Completed."""
    request, choice = resolved.request, resolved.choice
    best, best_error, spent = 0, np.inf, resolved.evaluations
    at = resolved.recipe.at
    tolerance = at.tolerance if isinstance(at, Path) else None
    reason: StopReason = "max_steps" if resolved.recipe.error_estimate else "exact"
    remedies: dict[int, str] = {}

    def wished() -> StopReason | None:
        if (wish := stop()) == "cancelled":
            raise Cancelled("the request was cancelled")
        return wish

    for number, stage in enumerate(stages(model, resolved, memory)):
        expected = spent + stage.planned()
        if number == 0:
            yield Accepted(
                request.request_id, model.digest, model.network.batch, choice.target, choice.layers, expected
            )
        evaluation = stage.run()
        done, wish = spent, None
        while wish is None or number == 0:
            try:
                done += next(evaluation)
            except StopIteration as end:
                sums: Sums = end.value
                break
            yield Progress(done, max(expected, done), time.monotonic() - started)
            wish = wished()
        else:  # asked to stop with a revision in hand
            assert wish is not None
            reason = wish
            break
        spent += sums.evaluations
        answer = _answer(model, resolved, sums, spent, stage.steps, started, stop, memory, remedies)
        errors = np.maximum(errors_of(answer), missed(resolved, sums))
        error = float(errors[~np.isnan(errors)].max(initial=0)) if not np.isnan(errors).all() else np.inf
        if number == 0 or error < best_error:
            best, best_error = number, error
        yield Revision(number, answer)
        if tolerance is not None and (errors <= tolerance).all():
            reason = "converged"
            break
        if (wish := wished()) is not None:
            reason = wish
            break
    yield Completed(reason, best)


def _answer(
    model: LoadedModel,
    asked: Resolved,
    every: Sums,
    spent: int,
    steps: int,
    started: float,
    stop: Stop,
    memory: int,
    remedies: dict[int, str],
) -> Attribution:
    resolved, sums = averaged(asked, every)
    with np.errstate(over="ignore", invalid="ignore"):  # the warnings say what is not finite
        layers, joint = layers_of(model, resolved, sums)
        now = time.monotonic()
        until = now + min(now - started + PATIENCE[0], PATIENCE[1])
        answered = Answered(
            model, asked, every, resolved, sums, layers, joint, steps, remedies,
            lambda: time.monotonic() < until and stop() is None,
        )  # fmt: skip
        warnings = resolved.warnings + tuple(warnings_of(answered, memory))
    return Attribution(
        resolved.request.method.name,
        model.network.batch,
        ResolvedTarget(resolved.choice.target, resolved.index, resolved.value, resolved.baseline_value),
        layers,
        spent,
        steps,
        time.monotonic() - started,
        model.digest,
        model.backend.provider,
        warnings,
        joint,
    )

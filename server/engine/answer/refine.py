"""The answer as it comes: runs, revisions of more steps until the tolerance is met, and the reason of the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_attribution.errors import Cancelled, DeadlineExceeded, InvalidArgument, ModelError
from onnx_attribution.server.engine.answer.reduce import errors_of, flow_of, layers_of, of_channels, together
from onnx_attribution.server.engine.answer.warnings import Answered, warnings_of
from onnx_attribution.server.engine.methods import stages
from onnx_attribution.server.engine.methods.path import missed
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Path
from onnx_attribution.server.engine.request.resolve import Resolved, explain
from onnx_attribution.server.engine.rows.evaluate import Sums, averaged
from onnx_attribution.values import (
    Accepted,
    Attribution,
    AttributionRequest,
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
    model: LoadedModel,
    asked: Sequence[Resolved],
    stop: Stop,
    memory: int,
    started: float,
    every: bool = True,
    advise: bool = True,
) -> Iterator[Event]:
    """Accepted, Progress between runs, at least one Revision, Completed; without `every` those revisions are left out
    that are no better than one before, or of which it is known that a better one follows. Without `advise` nothing is
    looked for that would work better."""
    request, recipe, layers = asked[0].request, asked[0].recipe, asked[0].choice.layers
    best: int | None = None
    best_error = np.inf
    spent = asked[0].evaluated
    tolerance = recipe.at.tolerance if isinstance(recipe.at, Path) else None
    reason: StopReason = "max_steps" if recipe.error_estimate else "exact"
    remedies: list[dict[int, str]] = [{} for _ in asked]
    left_out: _Found | None = None

    def wished() -> StopReason | None:
        if (wish := stop()) == "cancelled":
            raise Cancelled("the request was cancelled")
        return wish

    def until(end: float) -> Callable[[], bool]:
        return lambda: time.monotonic() < end and stop() is None

    def answered(found: _Found, search: bool) -> list[Attribution]:
        """The answer about each target; `search` says whether what works in its place may be looked for."""
        now = time.monotonic()
        may_go_on = until(now + min(now - started + PATIENCE[0], PATIENCE[1]) if search and advise else now)
        return [
            _answer(model, one, own, found.spent, found.steps, started, memory, known, may_go_on)
            for one, own, known in zip(found.asked, found.sums, remedies, strict=True)
        ]

    for number, stage in enumerate(stages(model, asked, memory)):
        expected = spent + stage.planned()
        if number == 0:
            tensors = ", ".join(dict.fromkeys(one.choice.target for one in asked))
            yield Accepted(request.request_id, model.digest, model.network.batch, tensors, layers, expected)
        evaluation = stage.run()
        done = spent
        wish: StopReason | None = None
        while wish is None or number == 0:
            try:
                done += evaluation.send(wish)
            except StopIteration as end:
                sums: list[Sums] = end.value
                break
            except DeadlineExceeded:
                if best is None and left_out is None:
                    raise
                wish = "deadline_near"
                continue
            except (InvalidArgument, ModelError):  # what was given, or the program
                explain(model, asked)
                raise
            yield Progress(done, max(expected, done), time.monotonic() - started)
            wish = wished()
        else:  # asked to stop with a revision in hand
            assert wish is not None
            reason = wish
            break
        spent = done
        asked = [one.known(own.value, own.baseline_value) for one, own in zip(asked, sums, strict=True)]
        found = _Found(number, asked, sums, spent, stage.steps())
        left_out = None
        if stage.goes_on() and not every:
            best, left_out = None, found
            if (wish := wished()) is not None:
                reason = wish
                break
            continue
        answers = answered(found, search=not stage.goes_on())
        if recipe.error_estimate:
            errors = np.concatenate(
                [
                    np.maximum(
                        errors_of(answer, averaged(one, own)[1].fine if request.sums_only else None),
                        missed(one, own),
                    )
                    for answer, one, own in zip(answers, asked, sums, strict=True)
                ]
            )
            error = float(errors[~np.isnan(errors)].max(initial=0)) if not np.isnan(errors).all() else np.inf
            if best is None or error < best_error:
                best, best_error = number, error
        if every or best in (None, number):
            yield _revision(number, request, answers)
        if tolerance is not None and (errors <= tolerance).all():
            reason = "converged"
            break
        if (wish := wished()) is not None:
            reason = wish
            break
    if left_out is not None:
        best = left_out.number
        yield _revision(best, request, answered(left_out, search=True))
    yield Completed(reason, best or 0)


@dataclass(frozen=True)
class _Found:
    """What a stage found, before it is made an answer."""

    number: int
    asked: Sequence[Resolved]
    sums: Sequence[Sums]
    spent: int
    steps: int


def _revision(number: int, request: AttributionRequest, answers: Sequence[Attribution]) -> Revision:
    return Revision(number, answers[0] if request.targets is None else together(answers))


def _answer(
    model: LoadedModel,
    asked: Resolved,
    every: Sums,
    spent: int,
    steps: int,
    started: float,
    memory: int,
    remedies: dict[int, str],
    may_go_on: Callable[[], bool],
) -> Attribution:
    """The answer about one target."""
    every = of_channels(asked, every)
    resolved, sums = averaged(asked, every)
    with np.errstate(over="ignore", invalid="ignore"):  # the warnings say what is not finite
        layers, joint = layers_of(model, resolved, sums)
        answered = Answered(model, asked, every, resolved, sums, layers, joint, steps, remedies, may_go_on)
        warnings = resolved.warnings + tuple(warnings_of(answered, memory))
    target = ResolvedTarget(
        resolved.choice.target, resolved.index, resolved.value, resolved.baseline_value, resolved.labels
    )
    return Attribution(
        resolved.request.method.name,
        model.network.batch,
        (target,),
        layers,
        spent,
        steps,
        time.monotonic() - started,
        model.digest,
        model.backend.provider,
        warnings,
        joint,
        flow=flow_of(model, resolved, layers),
        supports=sums.supports,
    )

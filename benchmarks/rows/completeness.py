"""Whether the answers of trained models sum to the change, with the default settings and the default method, at real
inputs: |residual| / |change|, the worst of the inputs. A miss that every answer's warnings name is excused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.bench import NO_DATA, Bench
from benchmarks.table import Bound, Figure, most
from benchmarks.trained import FIRST_CLASS, Trained, nudenet, target_of, with_examples
from onnx_attribution.errors import AttributionError
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest

TITLE = "Completeness of trained models"
WHAT = "|residual| / |change|"
SAMPLES = 3
TARGET = most(0.05)
CLOSER = {"magika-standard-v3-3": (most(0.01), most(150))}
"""Where more is asked: of the residual, and of the evaluations."""
PHOTOGRAPH = "selfie-segmentation/person.jpg"


def figures(bench: Bench) -> Iterator[Figure]:
    models = bench.models
    if models is None:
        yield Figure("models with examples", WHAT, None, TARGET, NO_DATA)
    else:
        for trained in with_examples(models):
            yield from _figures(bench, trained, *CLOSER.get(trained.name, (TARGET, None)))
    photograph = models / PHOTOGRAPH if models else None
    try:
        detector = nudenet(photograph if photograph and photograph.exists() else None)
    except (RuntimeError, LookupError) as error:
        yield Figure("NudeNet 320n", WHAT, None, TARGET, str(error))
    else:
        yield from _figures(bench, detector, TARGET, None, FIRST_CLASS)


def _figures(
    bench: Bench, trained: Trained, target: Bound, rows: Bound | None, from_row: int = 0
) -> Iterator[Figure]:
    """`rows` bounds the evaluations, and then no warning excuses a miss."""
    with Engine(provider="cpu", threads=bench.threads) as engine:
        engine.add("model", trained.file)
        answers = []
        try:
            for k in range(min(len(trained), 1 if bench.quick else SAMPLES)):
                inputs = trained.sample(k)
                chosen = target_of(engine, "model", inputs, from_row)
                answers.append(engine.attribute(AttributionRequest("model", inputs, target=chosen)))
        except AttributionError as error:
            yield Figure(trained.name, WHAT, None, target, str(error).splitlines()[0][:160])
            return
    worst = max(answers, key=_missed)
    said = all("miss" in " ".join(each.warnings) for each in answers if not target.holds(_missed(each)))
    norm = sum(float(np.abs(layer.values).sum()) for layer in worst.layers.values())
    estimate = (
        sum(float(layer.error_estimate[0]) for layer in worst.layers.values()) / norm if norm else np.nan
    )
    evaluations = max(each.evaluations for each in answers)
    how = f"{len(answers)} inputs, {evaluations} evaluations at most, estimate / sum of |C| {estimate:.2g}"
    words = "; a warning says so" if said and not target.holds(_missed(worst)) else ""
    yield Figure(trained.name, WHAT, _missed(worst), target, how + words, excused=said and rows is None)
    if rows is not None:
        yield Figure(trained.name, "evaluations", float(evaluations), rows)


def _missed(answer: Attribution) -> float:
    """The part of the change that the sum of all sources misses."""
    change = float(answer.target.value[0] - answer.target.baseline_value[0])
    total = sum(float(layer.sum[0]) for layer in answer.layers.values())
    return abs(total - change) / abs(change) if change else np.inf

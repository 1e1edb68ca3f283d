"""Why maps forget their class: backward relevance that becomes the same whatever it began with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_attribution.client.audit.arrays import Floats, Inputs
from onnx_attribution.client.audit.metrics.metric import Metric, declared, flat, ratio
from onnx_attribution.client.audit.subject import Subject
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.methods import Method
from onnx_attribution.values import EVERY_KIND, Target

CONVERGENCE = declared(
    Metric(
        "convergence",
        "lower",
        "randomisation",
        "|cos(r, s)| at a layer, for relevance r and s that began as two random vectors at the scores, and its "
        "mean over pairs of them",
        "arXiv 1912.09818, cosine similarity convergence",
    )
)


def convergence(
    subject: Subject,
    method: Method | str,
    inputs: Inputs,
    *,
    layers: Sequence[str] | None = (EVERY_KIND,),
    pairs: int = 4,
    seed: int = 0,
) -> dict[str, Floats]:
    """CONVERGENCE by layer, for each sample; by default at activations, pooling and additions, with None where the
    subject has its maps. The vectors are normal, and the same for every method. Where a relevance is 0 there is no
    angle: NaN.

    Raises:
        InvalidArgument: the scores are one number, so that every relevance begins alike.
    """
    if pairs < 1:
        raise InvalidArgument(f"pairs must be at least 1, not {pairs}", parameter="pairs")
    tensor = subject.target if subject.target is not None else subject.scores_name()
    unit = subject.asked.predict(subject.model, dict(inputs), [tensor])[tensor].shape[1:]
    if np.prod(unit) < 2:
        raise InvalidArgument(f"{tensor!r} is one number, so every relevance begins alike", tensor=tensor)
    rng = np.random.default_rng(seed)
    found: dict[str, list[Floats]] = {}
    for _ in range(pairs):
        ends = []
        for weights in rng.normal(size=(2, *unit)):
            answer = subject.ask(method, inputs, layers=layers, target=Target(tensor, weights))
            ends.append(answer.layers)
        for name in ends[0]:
            left, right = (flat({name: np.asarray(one[name].values, np.float64)}) for one in ends)
            norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            found.setdefault(name, []).append(np.abs(ratio((left * right).sum(axis=1), norms)))
    return {name: np.mean(each, axis=0) for name, each in found.items()}

"""What an audit keeps of each sample: the answers of all methods, and the ranks of the scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_attribution.client.audit.data import Item
from onnx_attribution.client.audit.questions import Questions
from onnx_attribution.client.audit.records import channels_of, numbers_of, plain
from onnx_attribution.errors import AttributionError
from onnx_attribution.values import Array, Attribution, Target

LARGEST = 1 << 22
"""Numbers of one layer of which maps of channels are kept."""
RANKS, LAST = 3, 2
"""Places of classes that are kept of each sample: the most and the least likely."""


def explained(audit: Questions, k: int) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
    """The numbers and arrays that are kept of a sample: the answers of all methods, and its scores."""
    item, started = audit.data.items[k], time.monotonic()
    told: dict[str, Any] = {
        "id": item.id,
        "label": audit.data.label_index(k, audit.classes()),
        "methods": {},
    }
    arrays: dict[str, Array] = {}
    target = audit.target(k)
    for name in audit.settings.methods:
        hidden = audit.settings.layers if name in audit.flow_methods else ()
        own = (audit.settings.source or audit.info.sources) if hidden else ()
        try:
            answer, refused = _with_hidden(audit, name, item, target, own, hidden)
        except AttributionError as error:
            told["methods"][name] = {"error": error.message}
            continue
        told["methods"][name] = numbers_of(answer)
        told["methods"][name]["warnings"] += refused
        for layer, found in answer.layers.items():
            if layer not in hidden or layer in own:
                arrays[f"map/{name}/{layer}"] = found.values[0].astype(np.float32)
            elif found.values[0].size <= LARGEST:
                kept = channels_of(found.values[0], audit.layer_infos.get(layer))
                for word, array in zip(("sums", "strongest", "maps"), kept, strict=True):
                    arrays[f"hidden/{name}/{layer}/{word}"] = array
    asked = time.monotonic()
    told["prediction"] = _prediction(audit, item.inputs, told["methods"])
    told["run_seconds"] = round(time.monotonic() - asked, 6)
    if told["prediction"] is not None:
        told["label"] = audit.data.label_index(k, audit.classes(), told["prediction"]["classes"])
    told["seconds"] = round(time.monotonic() - started, 6)
    return told, arrays


def coarse(audit: Questions, k: int, methods: Sequence[str]) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
    """The maps of a sample as the checks compare them, of methods that they ask for more coarsely."""
    seconds: dict[str, float | None] = {}
    arrays: dict[str, Array] = {}
    for name in methods:
        request = audit.request(name, audit.data.items[k].inputs, audit.target(k), as_checked=True)
        try:
            answer = audit.ask(request)
        except AttributionError:
            seconds[name] = None
            continue
        seconds[name] = round(answer.seconds, 6)
        for layer, found in answer.layers.items():
            arrays[f"map/{name}/{layer}"] = found.values[0].astype(np.float32)
    return {"seconds": seconds}, arrays


def _with_hidden(
    audit: Questions, method: str, item: Item, target: Target, own: Sequence[str], hidden: Sequence[str]
) -> tuple[Attribution, list[str]]:
    """The answer with the hidden layers, or where they are refused without them, and a warning of that."""
    try:
        return audit.ask(audit.request(method, item.inputs, target, (*own, *hidden)), advise=True), []
    except AttributionError as error:
        if not hidden:
            raise
        answer = audit.ask(audit.request(method, item.inputs, target), advise=True)
        return answer, [f"without the hidden layers: {error.message}"]


def _prediction(
    audit: Questions, inputs: Mapping[str, Array], methods: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The largest of the target's scores, and the places of the others by their rank."""
    tensors = [one["target"]["tensor"] for one in methods.values() if "target" in one]
    if not tensors:
        return None
    whole = np.asarray(audit.model.predict(inputs, tensors[:1])[tensors[0]], np.float64)
    scores = whole.ravel()
    if len(scores) < 2 or not np.isfinite(scores).all() or sum(size > 1 for size in whole.shape) > 1:
        return None
    order = np.argsort(-scores, kind="stable")
    unit = whole.shape[1:] if whole.ndim > 1 and whole.shape[0] == 1 else whole.shape
    places = [[int(i) for i in np.unravel_index(int(at), unit)] for at in order]
    classes = audit.classes()
    few = [*places[:RANKS], *places[-LAST:]] if len(places) > RANKS + LAST else places
    return {
        "index": int(order[0]),
        "place": places[0],
        "label": classes[order[0]] if int(order[0]) < len(classes) else None,
        "score": plain(scores[order[0]]),
        "places": few,
        "classes": len(scores),
    }

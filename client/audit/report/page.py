"""`report.html`: one file that opens anywhere, without a network: verdicts first, then what they rest on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_attribution.client.audit.arrays import from_json
from onnx_attribution.client.audit.records import answer_of
from onnx_attribution.client.audit.report.missing import left_out
from onnx_attribution.client.audit.report.summary import title
from onnx_attribution.client.audit.run import Audit
from onnx_attribution.client.render import charts, page
from onnx_attribution.client.render.charts import Curve
from onnx_attribution.client.render.inputs import shown_of
from onnx_attribution.client.render.maps import range_of
from onnx_attribution.client.render.scene import HeatPanel, Panel, Shown, TokensPanel, scene_of
from onnx_attribution.client.render.templates import templates
from onnx_attribution.values import Array

SAMPLES = 12
"""Samples of which the page shows the maps; the others are in the table."""
GRID = 2
"""Samples of which the cascade of randomised models is shown."""


def write_page(
    audit: Audit,
    found: Mapping[str, Any],
    path: Path,
    *,
    links: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes the page of what an audit has found; `links` are the pairs of layers that follow each other.

    Raises:
        InvalidArgument: jinja2 or pillow is missing.
    """
    environment = templates("onnx_attribution.client.audit.report")
    environment.filters["title"] = title
    shown = [shown_of(audit.info, item.inputs, baseline=audit.settings.baseline) for item in audit.data.items]
    shown = [_with_features(one, audit) for one in shown]
    text = environment.get_template("report.html.j2").render(
        found=found,
        names=list(found["methods"]),
        metrics=metrics_of(found),
        samples=[_sample(audit, k, shown[k], found) for k in range(min(len(audit.data), SAMPLES))],
        cascade=_cascade(audit, found, shown),
        carried=_carried(found),
        left_out=left_out(found),
        curves=_curves(found),
        flow=_flow(found, links, audit),
        neurons=_neurons(audit, found, shown),
        compared=_compared(found),
        css=page.css(),
    )
    path.write_text(text, encoding="utf-8")


def metrics_of(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every metric that a method has, in order, with what is said of it."""
    known: dict[str, dict[str, Any]] = {}
    for one in found["methods"].values():
        for name, metric in one["metrics"].items():
            known.setdefault(name, metric)
    return known


def _with_features(shown: Shown, audit: Audit) -> Shown:
    from dataclasses import replace

    return replace(shown, features=audit.data.features)


# --- maps side by side


def _sample(audit: Audit, k: int, shown: Shown, found: Mapping[str, Any]) -> dict[str, Any]:
    told = found["items"][k]
    cells = []
    for name in audit.settings.methods:
        numbers = told["methods"][name]
        if "error" in numbers:
            cells.append({"name": name, "error": numbers["error"], "pictures": [], "layers": []})
            continue
        answer = answer_of(name, numbers, audit.maps(k, name))
        pictures = [
            page.scene(scene_of(answer, layer, 0, shown), without_input=True, only_over=True, briefly=True)
            for layer in answer.layers.values()
        ]
        layers = [layer for layer in answer.layers if layer not in audit.info.sources or len(pictures) > 1]
        cells.append({"name": name, "error": None, "pictures": pictures, "layers": layers})
    image = shown.image(0)
    classes = audit.classes()
    return {
        "id": told["id"],
        "label": _class(told["label"], classes),
        "prediction": told["prediction"] and _class(told["prediction"]["index"], classes),
        "score": told["prediction"] and told["prediction"]["score"],
        "right": told["prediction"]
        and told["label"] is not None
        and told["label"] == told["prediction"]["index"],
        "input": None if image is None else page.picture(page.pixels_of(image), f"input {told['id']}"),
        "mask": _mask(audit.data.items[k].mask, told["id"]),
        "cells": cells,
    }


def _mask(mask: Array | None, name: str) -> str | None:
    """The mask of a picture, white where the reason lies."""
    plane = None if mask is None else np.squeeze(mask)
    if plane is None or plane.ndim != 2:
        return None
    return page.picture(page.pixels_of(plane.astype(np.float64)), f"mask of {name}")


def _class(index: int | None, classes: Sequence[str]) -> str | None:
    if index is None:
        return None
    return classes[index] if 0 <= index < len(classes) else str(index)


# --- randomised models


def _cascade(audit: Audit, found: Mapping[str, Any], shown: Sequence[Shown]) -> dict[str, Any] | None:
    """Maps of the model and of each stage of its randomisation: a line a method."""
    told = found.get("randomisation")
    if not told:
        return None
    grids = []
    for k in told["shown"][:GRID]:
        lines = []
        for name in told["methods"]:
            pictures = [_small(audit.maps(k, name), shown[k], found["items"][k]["methods"][name], name)]
            for stage in told["stages"]:
                maps = audit.state.arrays(stage["step"], f"map/{k}/{name}/")
                own = {layer.removeprefix(f"map/{k}/{name}/"): array for layer, array in maps.items()}
                pictures.append(_small(own, shown[k], found["items"][k]["methods"][name], name))
            lines.append({"name": name, "pictures": pictures})
        grids.append({"id": found["items"][k]["id"], "lines": lines})
    charted = {}
    for name, one in told["methods"].items():
        values = [stage["value"] for stage in one[told["metric"]]]
        charted[name] = Curve(
            np.arange(len(values) + 1, dtype=np.float64),
            from_json([1.0, *values]),
            from_json([1.0, *(stage["low"] for stage in one[told["metric"]])]),
            from_json([1.0, *(stage["high"] for stage in one[told["metric"]])]),
        )
    chart = charts.curves(
        charted, "blocks drawn anew, from the top", told["metric"].replace("_", " "), _hues(found)
    )
    return {**told, "grids": grids, "chart": chart}


def _small(maps: Mapping[str, Any], shown: Shown, numbers: Mapping[str, Any], name: str) -> str:
    """The first map without captions."""
    if not maps or "error" in numbers:
        return '<div class="empty">none</div>'
    answer = answer_of(name, {**numbers, "support": None}, maps)  # which is that of the model as it is
    if not answer.layers:
        return '<div class="empty">none</div>'
    drawn = scene_of(answer, next(iter(answer.layers.values())), 0, shown)
    panels: list[Panel] = [one for one in drawn.panels if isinstance(one, HeatPanel) and one.image is None]
    last = (panels or list(drawn.panels))[-1]
    return page.strip(last) if isinstance(last, TokensPanel) else page.panel(last)


# --- relevance that is carried back


def _carried(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """How alike relevance becomes from the scores down, whatever it began with: a curve a method."""
    told = found.get("convergence")
    if not told or len(told["layers"]) < 2:
        return None
    charted = {}
    for name, one in told["methods"].items():
        places = [k for k, layer in enumerate(told["layers"]) if layer in one]
        numbers = [one[told["layers"][k]] for k in places]
        charted[name] = Curve(
            np.array(places, np.float64) + 1,
            *(from_json([each[word] for each in numbers]) for word in ("value", "low", "high")),
        )
    hues = charts.hues(list(found["settings"]["methods"]))
    chart = charts.curves(charted, "layers, from the scores down to the source", "|cos|", hues)
    return {**told, "chart": chart}


# --- curves


def _curves(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The charts of ablation: of neurons of a layer, and of inputs."""
    made = []
    for told in (found.get("ablation") or {}).get("curves", []):
        x = from_json(told["fractions"])
        given = {
            name: Curve(x, from_json(one["mean"]), from_json(one["low"]), from_json(one["high"]))
            for name, one in told["methods"].items()
        }
        sign = -1 if told["direction"] == "higher" else 1
        known = [(name, one["area"]) for name, one in told["methods"].items() if one["area"] is not None]
        areas = sorted(known, key=lambda each: sign * each[1])
        chart = charts.curves(given, told["x"], told["y"], _hues(found))
        made.append({"title": told["title"], "words": told["words"], "chart": chart, "areas": areas})
    return made


def _hues(found: Mapping[str, Any]) -> dict[str, str]:
    """The same colour for a method in all charts."""
    told = (found.get("ablation") or {}).get("curves", [])
    return charts.hues([*found["settings"]["methods"], *(name for one in told for name in one["methods"])])


# --- layers


def _flow(found: Mapping[str, Any], links: Sequence[tuple[str, str]], audit: Audit) -> dict[str, Any] | None:
    told = found["flow"]
    if told is None:
        return None
    known = {one.name: one for one in audit.model.layers("")}
    stages = []
    for name, one in told["layers"].items():
        about = known.get(name)
        shape = (
            ""
            if about is None or about.shape is None
            else "×".join("N" if not isinstance(d, int) else str(d) for d in about.shape[1:])
        )
        share = math.nan if one["share"] is None else one["share"]
        stages.append(charts.Stage(name, about.operator if about else "", shape, share, one["cut"]))
    pairs = list(links) or [(a.name, b.name) for a, b in itertools.pairwise(stages)]
    return {
        "method": told["method"],
        "picture": charts.flow(stages, pairs),
        "cut_sets": told["cut_sets"],
        "linked": bool(links),
    }


def _neurons(audit: Audit, found: Mapping[str, Any], shown: Sequence[Shown]) -> dict[str, Any] | None:
    told = found["neurons"]
    if told is None:
        return None
    layers = []
    for layer, units in told["layers"].items():
        drawn = []
        for unit in units:
            examples = [
                _example(audit, told["method"], layer, unit["channel"], one, shown)
                for one in unit["examples"]
            ]
            drawn.append({**unit, "examples": examples})
        layers.append({"name": layer, "units": drawn})
    return {"method": told["method"], "layers": layers}


def _example(
    audit: Audit, method: str, layer: str, channel: int, one: Mapping[str, Any], shown: Sequence[Shown]
) -> dict[str, Any]:
    """A sample and where in it the channel contributes, as far as both are to be seen."""
    k = one["item"]
    image, picture = shown[k].image(0), ""
    kept = audit.hidden(k, method, layer)
    places = list(kept["strongest"]) if kept else []
    if image is not None:
        picture = page.picture(page.pixels_of(image), audit.data.items[k].id)
        if channel in places:
            values = kept["maps"][places.index(channel)].astype(np.float64)
            if values.ndim == 2:
                limit = range_of(values).limit
                picture = page.panel(
                    HeatPanel(f"{audit.data.items[k].id}", values, limit, image, values.shape, True)
                )
    return {"id": audit.data.items[k].id, "value": one["value"], "picture": picture}


def _compared(found: Mapping[str, Any]) -> dict[str, Any] | None:
    return found.get("compare")

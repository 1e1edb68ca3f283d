"""What the commands print: tables for people, JSON for programs. NaN is null in JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.interventions import Intervened
from onnx_attribution.supports import Box
from onnx_attribution.values import Attribution, Flow, LayerInfo, ModelInfo, Preprocessing

if TYPE_CHECKING:
    from onnx_attribution.client.audit.ablation import Ablation
    from onnx_attribution.server.engine.check import Verdict

WIDTH = 160  # where the output is no terminal
BOXES = 4
MARKS = {True: "yes", False: "no"}


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for a file."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, soft_wrap=False)


def print_json(value: Mapping[str, object]) -> None:
    """One object on one line, at once."""
    print(json.dumps(_plain(value), allow_nan=False), flush=True)


def _plain(value: object) -> object:
    """The value in what JSON has."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


# --- models


def print_models(models: Sequence[ModelInfo], *, tried: bool) -> None:
    """The table of `models`, and how many there are of each kind; `tried`: all have been loaded once."""
    out = console()
    table = _table("model", "version", "state", "batch", "reason")
    for info in models:
        table.add_row(*map(escape, (info.name, str(info.version), info.state, info.batch or "", info.reason)))
    out.print(table)
    failed = sum(info.state == "FAILED" for info in models)
    unloaded = 0 if tried else sum(info.state == "UNLOADED" for info in models)
    counts = [f"{len(models) - failed} served", f"{failed} failed"]
    counts += [f"{unloaded} not loaded yet"] * bool(unloaded)
    out.print(", ".join(counts))


# --- layers


def layers_json(
    file: str, info: ModelInfo, layers: Sequence[LayerInfo], names: UnitNames
) -> dict[str, object]:
    """The object of `layers --json`."""
    return {
        "file": file,
        "description": info.description,
        "batch": info.batch,
        "sources": info.sources,
        "inputs": [asdict(one) for one in info.inputs],
        "outputs": [asdict(one) for one in info.outputs],
        "class_names": info.class_names,
        "preprocessing": {name: asdict(one) for name, one in info.preprocessing.items()},
        "layers": [{**asdict(one), **({"names": names.of(one.name)} if names.all else {})} for one in layers],
    }


def print_layers(info: ModelInfo, layers: Sequence[LayerInfo], names: UnitNames) -> None:
    """The table of `layers`, with the names of units where there are some."""
    out = console()
    if info.description:
        out.print(escape(info.description), soft_wrap=True)
    ways = {name: _way_text(one) for name, one in info.preprocessing.items()}
    classes = {name: f"{len(each)} classes: {_few(each)}" for name, each in info.class_names.items()}
    for title, tensors, said in (("input", info.inputs, ways), ("output", info.outputs, classes)):
        for one in tensors:
            more = f"; {said.pop(one.name)}" if one.name in said else ""
            out.print(
                escape(f"{title} {one.name}: {one.dtype} {shape_text(one.shape)}{more}"), soft_wrap=bool(more)
            )
    for name, text in classes.items():  # of a tensor that is no output
        out.print(escape(f"tensor {name}: {text}"), soft_wrap=True)
    out.print(f"batch {info.batch}, opset {info.opset}; source {escape(', '.join(info.sources) or 'none')}")
    table = _table("layer", "node", "operator", "shape", "type", "cut", *["units"] * bool(names.all))
    for layer in layers:
        row = (layer.name, layer.node, layer.operator, shape_text(layer.shape), layer.dtype, MARKS[layer.cut])
        table.add_row(*map(escape, row), *[escape(names.words(layer.name))] * bool(names.all))
    out.print(table)


def _way_text(way: Preprocessing) -> str:
    """How an input is made of what people hold, in words."""
    if way.kind != "image":
        return way.kind
    lists = [", ".join(f"{one:.4g}" for one in each) for each in (way.mean or (0.0,), way.std or (1.0,))]
    mean, std = (f"[{text}]" if "," in text else text for text in lists)
    size = f" of {way.size[0]} x {way.size[1]}" if way.size else ""
    words = [f"image{size}", f"(pixel * {way.scale:.4g} - {mean}) / {std}", way.layout, way.colours]
    return ", ".join(word for word in words if word)


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def shape_text(shape: Iterable[int | str | None] | None) -> str:
    """`[N, 3, 8, 8]`, with ? for what is unknown."""
    return "?" if shape is None else "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


# --- check


def print_verdict(file: str, verdict: Verdict | None, error: str) -> None:
    """One file of `check`."""
    out = console()
    if verdict is None:
        out.print(f"[red]unusable[/]      {escape(file)}: {escape(error)}", soft_wrap=True)
        return
    word = "[green]attributable[/]" if verdict.attributable else "[yellow]refused[/]     "
    details = f"batch {verdict.batch or 'unknown'}, source {', '.join(verdict.sources) or 'none'}"
    out.print(f"{word}  {escape(file)}: {escape(details)} ({verdict.seconds:.1f} s)", soft_wrap=True)
    for one in verdict.refused:
        named = not one.get("node") or f"(node {one['node']!r}" in one["reason"]
        node = "" if named else f" (node {one['node']!r}, output {one['tensor']!r})"
        out.print(
            f"    {escape(' '.join(filter(None, (one.get('operator'), one.get('reason')))) + node)}",
            soft_wrap=True,
        )
    for note in verdict.notes:
        out.print(f"    note: {escape(note)}", soft_wrap=True)


# --- explain


def explain_json(answer: Attribution, names: UnitNames) -> dict[str, object]:
    """The object of `explain --json`; lists hold one entry a sample, of several targets such a list for each."""
    targets = [
        {
            "tensor": one.tensor,
            "index": one.index,
            "label": one.labels or None,
            "value": one.value,
            "baseline_value": one.baseline_value,
        }
        for one in answer.targets
    ]
    return {
        "method": answer.method,
        "batch": answer.batch,
        **({"targets": targets} if answer.several else {"target": targets[0]}),
        "layers": {
            name: {
                "shape": layer.values.shape,
                "sum": layer.sum,
                "residual": layer.residual,
                "error_estimate": layer.error_estimate,
                "spread": layer.spread,
                "cut": layer.cut,
                **({"names": names.of(name)} if names.all else {}),
            }
            for name, layer in answer.layers.items()
        },
        "joint_residual": answer.joint_residual,
        "flow": _flow_json(answer.flow),
        "supports": _supports_json(answer),
        "evaluations": answer.evaluations,
        "steps": answer.steps,
        "seconds": round(answer.seconds, 6),
        "provider": answer.provider,
        "digest": answer.digest,
        "warnings": answer.warnings,
    }


def _flow_json(flow: Flow | None) -> dict[str, object] | None:
    if flow is None:
        return None
    return {
        "layers": {
            name: {"total": one.total, "share": one.share, "cut": one.cut}
            for name, one in flow.layers.items()
        },
        "cut_sets": [
            {"layers": names, "residual": residual}
            for names, residual in zip(flow.cut_sets, flow.residuals, strict=True)
        ],
    }


def _supports_json(answer: Attribution) -> list[object] | None:
    """One entry a sample, of several targets such a list for each; null where the method has none."""
    if not answer.supports:
        return None
    found: list[object] = [support.to_json() for support in answer.supports]
    count = len(found) // len(answer.targets)
    return [found[k : k + count] for k in range(0, len(found), count)] if answer.several else found


def print_answer(model: str, answer: Attribution, names: UnitNames) -> None:
    """The tables of `explain`: the target, then sum, residual and error of each layer and sample; the units of them
    that have names and contribute most."""
    out = console()
    steps = f"{answer.steps} steps, " if answer.steps else ""
    out.print(
        f"[bold]{answer.method}[/] of {escape(model)}: {steps}{answer.evaluations} evaluations, "
        f"{answer.seconds:.2f} s on {answer.provider}, batch {answer.batch}"
    )
    out.print(_targets(answer))
    out.print(_layers(answer))
    if (flow := _flow(answer)).row_count:
        out.print(flow)
    for table in _supports(answer):
        if table.row_count:
            out.print(table)
    for each in answer.each():
        for name, layer in each.layers.items():
            for k, values in enumerate(layer.values):
                if words := names.strongest(name, values):
                    index = f"{each.target.tensor}[{each.target.index[k]}]"
                    out.print(escape(f"{index}, sample {k}, units of {name}: {words}"), soft_wrap=True)
    for warning in answer.warnings:
        out.print(f"[yellow]warning[/]: {escape(warning)}", soft_wrap=True)


def _targets(answer: Attribution) -> Table:
    named = any(one.labels for one in answer.targets)
    columns = ["sample", "target", *["class"] * named, "at the input", "at the baseline", "change"]
    table = _table(*columns, right=range(2 + named, len(columns)))
    for one in answer.targets:
        for k, index in enumerate(one.index):
            value, base = float(one.value[k]), float(one.baseline_value[k])
            label = [(one.labels[k] if one.labels else "") or "-"] * named
            row = (str(k), f"{one.tensor}[{index}]", *label, *map(number, (value, base, value - base)))
            table.add_row(*map(escape, row))
    return table


def _layers(answer: Attribution) -> Table:
    several = any(np.isfinite(layer.spread).any() for layer in answer.layers.values())
    lead = ["target"] if answer.several else []
    columns = [*lead, "layer", "sample", "shape", "sum", "residual", "L1 error", *["spread"] * several, "cut"]
    table = _table(*columns, right=range(len(lead) + 3, len(columns) - 1))
    for each in answer.each():
        names = [f"{each.target.tensor}[{index}]" for index in each.target.index]
        leads = [[name] if answer.several else [] for name in names]
        for name, layer in each.layers.items():
            for k, lead in enumerate(leads):
                numbers = (
                    layer.sum[k],
                    layer.residual[k],
                    layer.error_estimate[k],
                    *[layer.spread[k]] * several,
                )
                shape = shape_text(layer.values.shape[1:])
                row = (*lead, name, str(k), shape, *map(number, numbers), MARKS[layer.cut])
                table.add_row(*map(escape, row))
        for k, joint in enumerate(each.joint_residual if each.joint_residual is not None else ()):
            total = sum(float(layer.sum[k]) for layer in each.layers.values())
            row = (
                *leads[k],
                "together",
                str(k),
                "",
                number(total),
                number(joint),
                "-",
                *["-"] * several,
                "yes",
            )
            table.add_row(*map(escape, row))
    return table


def _flow(answer: Attribution) -> Table:
    """What of the change goes through layers that some ways bypass, and through sets of layers that are cuts."""
    lead = ["target"] if answer.several else []
    columns = [*lead, "flow through", "sample", "sum", "share", "residual"]
    table = _table(*columns, right=range(len(lead) + 2, len(columns)))
    for each in answer.each():
        if each.flow is None or len(each.flow.layers) < 2:
            continue
        bypassed = {name: one for name, one in each.flow.layers.items() if not one.cut}
        for k, index in enumerate(each.target.index):
            first = [f"{each.target.tensor}[{index}]"] if answer.several else []
            for name, one in bypassed.items():
                row = (*first, name, str(k), number(one.total[k]), percent(one.share[k]), "-")
                table.add_row(*map(escape, row))
            for names, residual in zip(each.flow.cut_sets, each.flow.residuals, strict=True):
                total = sum(float(each.flow.layers[name].total[k]) for name in names)
                share = sum(float(each.flow.layers[name].share[k]) for name in names)
                words = " + ".join(names)
                row = (*first, words, str(k), number(total), percent(share), number(residual[k]))
                table.add_row(*map(escape, row))
    return table


def _supports(answer: Attribution) -> Iterator[Table]:
    """What is kept of each layer, with the boxes of its parts; its strongest units, and the edges between them."""
    lead = ["target"] if answer.several else []
    kept = _table(
        *lead,
        "support of",
        "sample",
        "kept",
        "mass",
        "parts",
        "boxes",
        right=range(len(lead) + 1, len(lead) + 5),
    )
    units = _table(
        *lead, "unit of", "sample", "unit", "share", "through", right=[len(lead) + 1, len(lead) + 3]
    )
    for each in answer.each():
        for k, support in enumerate(each.supports):
            first = [f"{each.target.tensor}[{each.target.index[k]}]"] if answer.several else []
            for name, one in support.layers.items():
                boxes = "  ".join(map(box_text, one.boxes[:BOXES])) + "  ..." * (one.parts > BOXES)
                parts = str(one.parts) if one.positions else "-"
                row = (
                    *first,
                    name,
                    str(k),
                    f"{one.kept} of {one.units}",
                    percent(one.mass),
                    parts,
                    boxes or "-",
                )
                kept.add_row(*map(escape, row))
                for unit in one.top:
                    ways = [
                        f"{edge.to_layer}{list(edge.to_unit)} {percent(edge.share)}"
                        for edge in support.edges
                        if (edge.layer, edge.unit) == (name, unit.unit)
                    ]
                    row = (
                        *first,
                        name,
                        str(k),
                        str(list(unit.unit)),
                        percent(unit.share),
                        ", ".join(ways) or "-",
                    )
                    units.add_row(*map(escape, row))
    yield from (kept, units)


def box_text(box: Box) -> str:
    """The rows and columns of a box, as slices have them, and its share of the mass."""
    return f"{box.top}:{box.bottom + 1},{box.left}:{box.right + 1} ({percent(box.mass)})"


def print_ablation(found: Ablation) -> None:
    """The table of `ablation`, the best method first."""
    out = console()
    order = "come back" if found.kind == "insertion" else "go"
    out.print(
        f"{found.groups} groups of {escape(found.layer)} {order} in the order of their ranks, each {found.to}; "
        f"{found.samples} samples",
        soft_wrap=True,
    )
    columns = ("method", "area", "+-", "gain on random", "+-", "turned at", "share")
    table = _table(*columns, right=range(1, len(columns)))
    for one in found.rows():
        numbers = (one.area, one.area_error, one.gain, one.gain_error, one.turned)
        table.add_row(escape(one.method), *map(number, numbers), percent(one.turned_share))
    out.print(table)
    for name, reason in found.failed.items():
        out.print(f"[yellow]refused[/]: {escape(f'{name}: {reason}')}", soft_wrap=True)
    for warning in found.warnings:
        out.print(f"[yellow]warning[/]: {escape(warning)}", soft_wrap=True)


def intervened_json(edits: Sequence[str], found: Intervened) -> dict[str, object]:
    """The object of `intervene --json`; lists hold one entry a sample."""
    target = found.target
    return {
        "batch": found.batch,
        "target": {
            "tensor": target.tensor,
            "index": target.index,
            "label": target.labels or None,
            "value": target.value,
        },
        "largest": found.largest_before,
        "interventions": [
            {"edit": text, "value": value, "change": value - target.value, "largest": largest}
            for text, value, largest in zip(edits, found.values, found.largest, strict=True)
        ],
        "evaluations": found.evaluations,
        "seconds": round(found.seconds, 6),
        "provider": found.provider,
        "digest": found.digest,
        "warnings": found.warnings,
    }


def print_intervened(model: str, edits: Sequence[str], found: Intervened) -> None:
    """The table of `intervene`."""
    out = console()
    out.print(
        f"interventions on {escape(model)}: {found.evaluations} evaluations, {found.seconds:.2f} s on "
        f"{found.provider}, batch {found.batch}"
    )
    columns = ("edit", "sample", "target", "without", "with", "change", "largest")
    table = _table(*columns, right=range(3, len(columns)))
    for text, values, largest in zip(edits, found.values, found.largest, strict=True):
        for k, (value, top) in enumerate(zip(values, largest, strict=True)):
            before, was = found.target.value[k], found.largest_before[k]
            turned = "-" if top < 0 else f"{was} -> {top}" if top != was else str(top)
            index = f"{found.target.tensor}[{found.target.index[k]}]"
            numbers = map(number, (before, value, value - before))
            table.add_row(escape(text), str(k), escape(index), *numbers, turned)
    out.print(table)
    for warning in found.warnings:
        out.print(f"[yellow]warning[/]: {escape(warning)}", soft_wrap=True)


# --- importance


def print_importance(model: str, found: Mapping[str, Any], out: Path) -> None:
    """The table of `importance`: of each class the units whose mean is furthest from 0."""
    screen = console()
    screen.print(
        f"importance of the {found['units']} units of {escape(found['layer'])} for {escape(found['target'])} of "
        f"{escape(model)}, over {found['samples']} samples: {escape(str(out))}",
        soft_wrap=True,
    )
    table = _table("class", "name", "samples", "strongest units: mean +- deviation", right=(0, 2))
    for one in found["classes"]:
        units = "   ".join(
            f"{unit['unit']}: {number(unit['mean'])} +- {number(unit['std'])}" for unit in one["strongest"]
        )
        table.add_row(str(one["class"]), escape(one["name"] or "-"), str(one["samples"]), units)
    screen.print(table)
    for warning in found["warnings"]:
        screen.print(f"[yellow]warning[/]: {escape(warning)}", soft_wrap=True)


# --- audit


def print_audit(found: Mapping[str, Any], folder: Path) -> None:
    """The table of `audit`: the verdict and the metrics of each method, and where the report is."""
    out = console()
    from onnx_attribution.client.audit.report.summary import title

    for line in found.get("headline", ()):
        out.print(escape(line), soft_wrap=True)
    metrics = list(dict.fromkeys(name for one in found["methods"].values() for name in one["metrics"]))
    lines = [["method", "verdict", *map(title, metrics)]]
    for name, one in found["methods"].items():
        word = one["verdict"]["word"] if one["verdict"] else "no answer" if one["error"] else "-"
        numbers = [told(one["metrics"].get(metric, {}).get("value")) for metric in metrics]
        lines.append([name, word, *numbers])
    if len(lines) <= len(lines[0]):  # a line for each metric is narrower
        lines = [list(column) for column in zip(*lines, strict=True)]
    table = _table(*lines[0], right=range(1, len(lines[0])))
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    out.print(table)
    out.print(escape(f"{folder / 'report.html'}: {found['data']['items']} samples"), soft_wrap=True)


def told(value: float | None) -> str:
    """A number of JSON; a dash for null."""
    return "-" if value is None else number(value)


def percent(share: float) -> str:
    """A share in percent; a dash for what there is none of."""
    return f"{100 * float(share):.3g} %" if math.isfinite(share) else "-"


def number(value: float) -> str:
    """Six digits at most; a dash for what there is none of."""
    return f"{float(value):.5g}" if math.isfinite(value) else "-"


def _table(*columns: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for k, name in enumerate(columns):
        table.add_column(name, justify="right" if k in right else "left", overflow="fold")
    return table

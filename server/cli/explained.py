"""What `explain` prints: its JSON, and tables of targets, layers, flow and supports."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.markup import escape
from rich.table import Table

from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.server.cli import output
from onnx_attribution.supports import Box
from onnx_attribution.values import Attribution, Flow

BOXES = 4  # of a support, in its row


def explained_json(answer: Attribution, names: UnitNames) -> dict[str, object]:
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


def print_explained(model: str, answer: Attribution, names: UnitNames) -> None:
    """The tables of `explain`: the target, then sum, residual and error of each layer and sample; the units of them
    that have names and contribute most."""
    out = output.console()
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
    output.print_warnings(out, answer.warnings)


def _targets(answer: Attribution) -> Table:
    named = any(one.labels for one in answer.targets)
    columns = ["sample", "target", *["class"] * named, "at the input", "at the baseline", "change"]
    table = output.table(*columns, right=range(2 + named, len(columns)))
    for one in answer.targets:
        for k, index in enumerate(one.index):
            value, base = float(one.value[k]), float(one.baseline_value[k])
            label = [(one.labels[k] if one.labels else "") or "-"] * named
            row = (str(k), f"{one.tensor}[{index}]", *label, *map(output.number, (value, base, value - base)))
            table.add_row(*map(escape, row))
    return table


def _layers(answer: Attribution) -> Table:
    several = any(np.isfinite(layer.spread).any() for layer in answer.layers.values())
    lead = ["target"] if answer.several else []
    columns = [*lead, "layer", "sample", "shape", "sum", "residual", "L1 error", *["spread"] * several, "cut"]
    table = output.table(*columns, right=range(len(lead) + 3, len(columns) - 1))
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
                shape = output.shape_text(layer.values.shape[1:])
                row = (*lead, name, str(k), shape, *map(output.number, numbers), output.MARKS[layer.cut])
                table.add_row(*map(escape, row))
        for k, joint in enumerate(each.joint_residual if each.joint_residual is not None else ()):
            total = sum(float(layer.sum[k]) for layer in each.layers.values())
            row = (
                *leads[k],
                "together",
                str(k),
                "",
                output.number(total),
                output.number(joint),
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
    table = output.table(*columns, right=range(len(lead) + 2, len(columns)))
    for each in answer.each():
        if each.flow is None or len(each.flow.layers) < 2:
            continue
        bypassed = {name: one for name, one in each.flow.layers.items() if not one.cut}
        for k, index in enumerate(each.target.index):
            first = [f"{each.target.tensor}[{index}]"] if answer.several else []
            for name, one in bypassed.items():
                row = (*first, name, str(k), output.number(one.total[k]), output.percent(one.share[k]), "-")
                table.add_row(*map(escape, row))
            for names, residual in zip(each.flow.cut_sets, each.flow.residuals, strict=True):
                total = sum(float(each.flow.layers[name].total[k]) for name in names)
                share = sum(float(each.flow.layers[name].share[k]) for name in names)
                words = " + ".join(names)
                row = (
                    *first,
                    words,
                    str(k),
                    output.number(total),
                    output.percent(share),
                    output.number(residual[k]),
                )
                table.add_row(*map(escape, row))
    return table


def _supports(answer: Attribution) -> Iterator[Table]:
    """What is kept of each layer, with the boxes of its parts; its strongest units, and the edges between them."""
    lead = ["target"] if answer.several else []
    kept = output.table(
        *lead,
        "support of",
        "sample",
        "kept",
        "mass",
        "parts",
        "boxes",
        right=range(len(lead) + 1, len(lead) + 5),
    )
    units = output.table(
        *lead, "unit of", "sample", "unit", "share", "through", right=[len(lead) + 1, len(lead) + 3]
    )
    for each in answer.each():
        for k, support in enumerate(each.supports):
            first = [f"{each.target.tensor}[{each.target.index[k]}]"] if answer.several else []
            for name, one in support.layers.items():
                boxes = "  ".join(map(_box_text, one.boxes[:BOXES])) + "  ..." * (one.parts > BOXES)
                parts = str(one.parts) if one.positions else "-"
                row = (
                    *first,
                    name,
                    str(k),
                    f"{one.kept} of {one.units}",
                    output.percent(one.mass),
                    parts,
                    boxes or "-",
                )
                kept.add_row(*map(escape, row))
                for unit in one.top:
                    ways = [
                        f"{edge.to_layer}{list(edge.to_unit)} {output.percent(edge.share)}"
                        for edge in support.edges
                        if (edge.layer, edge.unit) == (name, unit.unit)
                    ]
                    row = (
                        *first,
                        name,
                        str(k),
                        str(list(unit.unit)),
                        output.percent(unit.share),
                        ", ".join(ways) or "-",
                    )
                    units.add_row(*map(escape, row))
    yield from (kept, units)


def _box_text(box: Box) -> str:
    """The rows and columns of a box, as slices have them, and its share of the mass."""
    return f"{box.top}:{box.bottom + 1},{box.left}:{box.right + 1} ({output.percent(box.mass)})"

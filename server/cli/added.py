"""Classes that are added: the file that holds them, and what is told of it in the file, as JSON and on the screen."""

from __future__ import annotations

import json as text
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape

from onnx_attribution.client.niwt.choose import Added, Choice
from onnx_attribution.client.niwt.classes import Classes
from onnx_attribution.client.niwt.features import Dependence
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.importance import Importance
from onnx_attribution.server.cli import output
from onnx_attribution.values import Array, ModelInfo

if TYPE_CHECKING:
    import onnx

    from onnx_attribution.graph_tools.programs.head import Head


def told_of(
    file: str,
    info: ModelInfo,
    head: Head,
    record: Importance,
    table: Classes,
    depends: Dependence,
    names: Sequence[str],
    choice: Choice,
    made: Added,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """What the report says."""
    from onnx_attribution import __version__

    return {
        "source": {"file": Path(file).name, "sha256": info.digest},
        "tool": f"onnx-attribution {__version__}",
        "layer": record.layer,
        "head": {
            "node": head.node,
            "operator": head.operator,
            "features": head.features,
            "logits": head.logits,
        },
        "classes": [
            {
                "name": name,
                "index": head.classes + k,
                "cosine": float(made.cosine[k]),
                "bias": float(made.offsets[k]),
                "norm": float(np.linalg.norm(made.weights[k])),
            }
            for k, name in enumerate(names)
        ],
        "chosen": asdict(choice),
        "known": sum(index is not None for index in table.seen),
        "attributes": list(table.attributes),
        "M": {"kind": depends.kind, "images": len(depends.images)},
        "warnings": list(dict.fromkeys([*warnings, *record.warnings])),
    }


def write_file(
    model: onnx.ModelProto,
    head: Head,
    old: Sequence[str],
    made: Added,
    told: Mapping[str, Any],
    out: Path,
    proven: Sequence[tuple[Mapping[str, Array], NDArray[np.float64]]],
    shapes: Mapping[str, tuple[int | str | None, ...]],
) -> None:
    """Writes the file, once it is proven that it says what the old one says."""
    from onnx_attribution.graph_tools.programs.export import save
    from onnx_attribution.graph_tools.programs.head import ADDED, CLASSES, widened
    from onnx_attribution.server.engine.added import require_same

    names = [one["name"] for one in told["classes"]]
    earlier = [text.loads(one.value) for one in model.metadata_props if one.key == ADDED]
    own = {key: value for key, value in told.items() if key != "warnings"}
    metadata = {
        CLASSES: text.dumps(
            {tensor: [*old, *names] for tensor in dict.fromkeys((head.logits, *head.scored))},
            ensure_ascii=False,
        ),
        ADDED: text.dumps([*(earlier[0] if earlier else []), own], ensure_ascii=False),
    }
    changed = widened(model, head, names, made.weights, made.offsets, metadata, shapes)
    require_same(model, changed, head, made.weights, made.offsets, proven)
    try:
        save(changed, out)
    except OSError as error:
        raise InvalidArgument(f"{str(out)!r} cannot be written: {error.strerror or error}") from error


def write_report(path: Path, told: Mapping[str, Any]) -> None:
    """Writes what is told as JSON. Raises: InvalidArgument: it cannot be written."""
    try:
        path.write_text(text.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def print_added(out: Path, told: Mapping[str, Any]) -> None:
    """The table of `add-class`."""
    screen, chosen, head = output.console(), told["chosen"], told["head"]
    screen.print(
        escape(
            f"{out}: {len(told['classes'])} classes at {head['node']}, by the importance of {told['layer']}"
        ),
        soft_wrap=True,
    )
    table = output.table("class", "index", "cosine", "bias", right=(1, 2, 3))
    for one in told["classes"]:
        table.add_row(
            escape(one["name"]), str(one["index"]), output.number(one["cosine"]), output.number(one["bias"])
        )
    screen.print(table)
    screen.print(
        f"chosen on {chosen['folds']} sets of known classes held out: pull {output.number(chosen['pull'])}, ridge "
        f"{output.number(chosen['ridge'])}, share {output.number(chosen['share'])}; there the harmonic mean of "
        f"accuracies was {output.number(chosen['harmonic'])} "
        f"(p {output.number(chosen['p'])} beside shuffled descriptions)",
        soft_wrap=True,
    )
    output.print_warnings(screen, told["warnings"])

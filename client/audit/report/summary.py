"""`report.json`: all numbers of an audit, in a form that `schema.json` beside this file describes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnx_attribution.client.audit import findings
from onnx_attribution.client.audit.metrics.metric import METRICS
from onnx_attribution.client.audit.requirements import Requirement
from onnx_attribution.client.audit.run import Audit
from onnx_attribution.client.audit.verdict import Finding, MethodVerdict, Verdicts, plain
from onnx_attribution.client.render.scene import number

VERSION = "onnx-attribution/audit/1"
"""Changes when a reader of version 1 could no longer read it; what is added does not."""
SENTENCES = {
    "passes": "Pass every check on this model",
    "doubtful": "Doubtful, as other methods do no worse, or chance no better",
    "ranked": "Ranked only, no check judges them",
    "fails": "Fail a check, and say little of this model",
    "unknown": "No check has a number",
    "error": "No answer",
}
TITLES = {
    "random_logit_spearman": "other classes",
    "model_parameter_randomisation_spearman": "random weights",
    "max_sensitivity": "small moves",
    "local_lipschitz_estimate": "continuity",
    "deletion_area": "deletion",
    "insertion_area": "insertion",
    "pointing_game": "pointing game",
    "attribution_localisation": "positive part in the mask",
    "relevance_mass_accuracy": "mass in the mask",
    "relevance_rank_accuracy": "top ranks in the mask",
    "intersection_over_union": "overlap with the mask",
}
"""Metrics by what they try, for the heads of columns."""
SCHEMA: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text())


def summary(
    audit: Audit, evidence: Mapping[str, Any], requirements: Sequence[Requirement] = ()
) -> dict[str, Any]:
    """The object. `evidence` says what is known of versions, command and time."""
    aim = audit.settings.aim
    items = [audit.item(k) for k in range(len(audit.data))]
    done = [check for check in audit.checks if check.name not in audit.skipped]
    judged = findings.judged(audit)
    methods = {name: _method(audit, name, items) for name in _ordered(audit, judged)}
    for one in judged.methods:
        methods[one.method]["verdict"] = _verdict(one)
        methods[one.method]["metrics"] = {_name(each): _metric(each) for each in one.findings}
    labelled = [one for one in items if one["label"] is not None and one["prediction"] is not None]
    right = sum(one["label"] == one["prediction"]["index"] for one in labelled)
    extra = {check.name: check.found(audit) for check in done}
    return {
        "schema": VERSION,
        "model": {
            "name": audit.info.name,
            "digest": audit.info.digest,
            "description": audit.info.description,
            "opset": audit.info.opset,
            "batch": audit.info.batch,
            "inputs": [_tensor(one) for one in audit.info.inputs],
            "outputs": [_tensor(one) for one in audit.info.outputs],
        },
        "data": {
            "name": audit.data.name,
            "digest": audit.data.digest(),
            "items": len(items),
            "left_out": dict(audit.left_out),
            "labelled": len(labelled),
            "accuracy": right / len(labelled) if labelled else None,
        },
        "settings": {
            "methods": {name: parameters_of(method) for name, method in audit.settings.methods.items()},
            "layers": list(audit.settings.layers),
            "source": list(audit.settings.source or audit.info.sources),
            "target": aim if isinstance(aim, str | int) else audit.settings.target,
            "tensor": audit.settings.tensor,
            "logit": audit.logit,
            "baseline": audit.settings.baseline,
            "seed": audit.settings.seed,
        },
        "headline": headline(methods),
        "methods": methods,
        "flow": findings.flow(audit),
        "neurons": findings.neurons(audit),
        **{name: one for name, one in extra.items() if one is not None},
        "skipped": dict(audit.skipped),
        "requirements": [one for each in requirements for one in each.met(methods)],
        "items": items,
        "evidence": dict(evidence),
    }


def headline(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader should know first, in sentences."""
    words: dict[str, list[str]] = {}
    for name, one in methods.items():
        word = one["verdict"]["word"] if one["verdict"] else "error" if one["error"] else "none"
        words.setdefault(word, []).append(name)
    lines = []
    for word, sentence in SENTENCES.items():
        if word in words:
            lines.append(f"{sentence}: {', '.join(words[word])}.")
    for name in words.get("fails", ()):
        failed = {key: one for key, one in methods[name]["metrics"].items() if one["word"] == "fails"}
        said = [
            f"{title(key)} {number(one['value'], 2)}, where random maps have {number(one['random']['value'], 2)}"
            for key, one in failed.items()
        ]
        lines.append(f"{name}: {'; '.join(said)}.")
    return lines


def title(name: str) -> str:
    """A metric in one or two words."""
    return TITLES.get(name, name.replace("_", " "))


def _ordered(audit: Audit, judged: Verdicts) -> list[str]:
    """The best method first, those without an answer last."""
    known = [one.method for one in judged.methods]
    return [*known, *(name for name in audit.settings.methods if name not in known)]


def _verdict(one: MethodVerdict) -> dict[str, Any]:
    telling = [each for each in one.findings if each.word == one.word] or list(one.findings)
    return {
        "word": one.word,
        "reasons": [f"{title(_name(each))}: {each.reason}" for each in telling],
        "all": [
            {
                "metric": _name(each),
                "word": each.word,
                "reason": each.reason,
                "rank": plain(asdict(each.rank)),
            }
            for each in one.findings
        ],
    }


def _name(one: Finding) -> str:
    return f"{one.metric}_{one.detail}" if one.detail else one.metric


def _metric(one: Finding) -> dict[str, Any]:
    """A finding as the report has it."""
    about = METRICS[one.metric]
    found: dict[str, Any] = plain(asdict(one.interval))
    chance = None if one.random is None else plain(asdict(one.random))
    return {
        **found,
        "random": chance,
        "word": one.word,
        "direction": about.direction,
        "category": about.category,
        "words": about.formula,
        "source": about.source,
    }


def write_summary(found: Mapping[str, Any], path: Path) -> None:
    """Writes the object, of which NaN is null."""
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def parameters_of(method: Any) -> dict[str, Any]:
    """The parameters of a method as JSON has them; arrays by their shapes."""
    found = {}
    for name, value in vars(method).items():
        plain = isinstance(value, str | int | float | bool | type(None))
        found[name] = value if plain else str(value)[:200]
    return found


def _coarsely(audit: Audit, name: str) -> list[str]:
    """What is to be said of a method that the checks ask for more coarsely."""
    if not audit.checks or name not in audit.coarse:
        return []
    return [f"the checks compare maps of {audit.coarse[name].parameters()['steps']} steps, to save time"]


def _tensor(one: Any) -> dict[str, Any]:
    return {"name": one.name, "dtype": one.dtype, "shape": None if one.shape is None else list(one.shape)}


def _method(audit: Audit, name: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the answers of one method say by themselves."""
    told = [one["methods"][name] for one in items]
    answered = [one for one in told if "error" not in one]
    errors = [one["error"] for one in told if "error" in one]
    found: dict[str, Any] = {
        "metrics": {},
        "answered": len(answered),
        "failed": len(errors),
        "seconds": round(sum(one["seconds"] for one in answered), 4),
        "evaluations": sum(one["evaluations"] for one in answered),
        "warnings": [
            *_coarsely(audit, name),
            *sorted({text for one in answered for text in one["warnings"]}),
        ],
        "verdict": None,
        "error": errors[0] if errors and not answered else None,
    }
    return found

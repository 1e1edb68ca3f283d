"""The table of operators: what each one does to a gradient and to DeepLIFT's multipliers, read from their records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from onnx_attribution.graph_tools.normalise import dropped_operators, open_optionals, unroll_sequences
from onnx_attribution.graph_tools.normalise.function_bodies import has_body
from onnx_attribution.graph_tools.operators import OPERATORS, Rule

DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview")
"""Those whose schemas are listed whole; of others, only operators with an entry of ours."""


@dataclass(frozen=True)
class Entry:
    """One operator.

    `gradient` is rule, function body, rewritten, unrolled, straight-through, zero or refused, `deeplift` linear,
    product, secant, own rule, function body, rewritten, unrolled, zero or refused; `reason` says why it is zero.
    `tagged`: ONNX marks an input as differentiable.
    """

    domain: str
    operator: str
    gradient: str
    deeplift: str
    reason: str = ""
    tagged: bool = False


def catalogue() -> list[Entry]:
    """All operators of the standard and those of other domains that have a rule, by domain and name."""
    schemas = {("", name): None for name in dropped_operators.DROPPED} | {
        (schema.domain, schema.name): schema
        for schema in onnx.defs.get_all_schemas()
        if schema.domain in DOMAINS and not schema.deprecated
    }
    keys = sorted({*schemas, *OPERATORS})
    return [_entry(domain, operator, schemas.get((domain, operator))) for domain, operator in keys]


def _entry(domain: str, operator: str, schema: onnx.defs.OpSchema | None) -> Entry:
    key, tagged = (domain, operator), schema is not None and _is_tagged(schema)
    rule = OPERATORS.get(key)
    if rule is not None:
        derived = "zero" if rule.zero else "straight-through" if rule.straight_through else "rule"
        return Entry(domain, operator, derived, _deeplift(rule), rule.zero, tagged)
    word = next(_replaced(domain, operator, schema), "refused")
    return Entry(domain, operator, word, word, tagged=tagged)


def _replaced(domain: str, operator: str, schema: onnx.defs.OpSchema | None) -> Iterator[str]:
    """What takes the operator's place before differentiation."""
    if domain == "" and operator in dropped_operators.DROPPED:
        yield "rewritten"
    if domain == "" and operator in unroll_sequences.UNROLLED | open_optionals.OPENED:
        yield "unrolled"
    if schema is not None and has_body(domain, operator, schema.since_version):
        yield "function body"


def _deeplift(rule: Rule) -> str:
    kinds = (
        ("zero", bool(rule.unfollowed and rule.zero)),
        ("function body", rule.composite),
        ("own rule", bool(rule.secant or rule.inner or rule.forward)),
        ("zero", bool(rule.zero)),
        ("product", rule.bilinear),
        ("linear", bool(rule.linear)),
        ("secant", rule.elementwise),
    )
    return next((word for word, holds in kinds if holds), "refused")


def _is_tagged(schema: onnx.defs.OpSchema) -> bool:
    wanted = onnx.defs.OpSchema.DifferentiationCategory.Differentiable
    return any(x.differentiation_category == wanted for x in schema.inputs)

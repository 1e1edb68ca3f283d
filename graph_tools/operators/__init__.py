"""Operators by family, one module a family; importing this package fills the tables."""

import importlib
import pkgutil

from onnx_attribution.graph_tools.operators.registry import (
    OPERATORS,
    VJP,
    ZERO_DERIVATIVE,
    Held,
    NodeView,
    Rule,
    RuleTable,
)

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = ["OPERATORS", "VJP", "ZERO_DERIVATIVE", "Held", "NodeView", "Rule", "RuleTable"]

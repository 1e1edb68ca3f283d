"""Gradient rules by operator family, one module a family; importing this package fills the tables."""

import importlib
import pkgutil

from onnx_attribution.graph_tools.operators.registry import VJP, ZERO_DERIVATIVE, NodeView, Rule, RuleTable

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["VJP", "ZERO_DERIVATIVE", "NodeView", "Rule", "RuleTable"]

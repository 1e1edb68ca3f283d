"""The public checker of rules, with models run by onnxruntime."""

from __future__ import annotations

import copy
from typing import Any

import onnx
import onnxruntime

from onnx_attribution.graph_tools import testing
from onnx_attribution.graph_tools.testing import FORMS as FORMS
from onnx_attribution.graph_tools.testing import Arrays, Comparison
from onnx_attribution.graph_tools.testing.double import to_double as to_double
from onnx_attribution.graph_tools.testing.forms import gradient_model as gradient_model
from onnx_attribution.graph_tools.testing.kinds import FLOAT32 as FLOAT32
from onnx_attribution.graph_tools.testing.kinds import FLOATS as FLOATS
from onnx_attribution.graph_tools.testing.kinds import NARROW as NARROW
from onnx_attribution.graph_tools.testing.kinds import Evaluate

NEWEST_OPSET = 26  # of onnxruntime 1.31


def check_gradient(model: onnx.ModelProto, inputs: Arrays, **options: Any) -> list[Comparison]:
    """As the public one."""
    return testing.check_gradient(model, inputs, prepare=session, **options)


def assert_gradient(model: onnx.ModelProto, inputs: Arrays, **options: Any) -> list[Comparison]:
    """As the public one."""
    return testing.assert_gradient(model, inputs, prepare=session, **options)


def session(model: onnx.ModelProto) -> Evaluate:
    """Runs a model in onnxruntime, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    made = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: list(made.run(None, dict(feeds)))


def restamped(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model at an opset that onnxruntime knows, at 21 at least where none of its operators changed in between.

    The official cases carry the opset in which their operator last changed; opsets above 26 only add types.
    """
    result = copy.deepcopy(model)
    for entry in result.opset_import:
        if entry.domain in ("", "ai.onnx"):
            target = min(max(entry.version, 21), NEWEST_OPSET)
            changed = any(
                onnx.defs.get_schema(node.op_type, target).since_version > entry.version
                for node in result.graph.node
                if node.domain in ("", "ai.onnx")
            )
            if not changed or target < entry.version:
                entry.version = target
    result.ir_version = min(result.ir_version, 10)
    return result

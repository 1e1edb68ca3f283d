"""Peers' expected numbers: which cases of the file are of our methods, and the models that they are about."""

from __future__ import annotations

import functools
import json
import lzma
import os
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from tests.oracle.nested import array

Json = dict[str, Any]

METHODS: dict[str, str] = {
    "IntegratedGradients": "integrated_gradients",
    "LayerConductance": "neuron_ig",
    "LayerIntegratedGradients": "integrated_gradients",
    "NeuronIntegratedGradients": "integrated_gradients",
    "NeuronGradient": "gradient",
    "Saliency": "gradient",
    "InputXGradient": "gradient_x_activation",
    "LayerGradientXActivation": "gradient_x_activation",
    "DeepLift": "deeplift_rescale",
    "LayerDeepLift": "deeplift_rescale",
    "NeuronDeepLift": "deeplift_rescale",
    "DeepLIFT-Linear": "deeplift_rescale",
    "DeepLIFT-Rescale": "deeplift_rescale",
    "DeepLIFT-rescale": "deeplift_rescale",
    "DeepLIFT-RevealCancel": "deeplift_reveal_cancel",
    "DeepLIFT-revealcancel": "deeplift_reveal_cancel",
    "DeepLIFT-genomics_default": "deeplift_genomics_default",
    "DeepLiftShap": "deeplift_rescale",
    "LayerDeepLiftShap": "deeplift_rescale",
    "NeuronDeepLiftShap": "deeplift_rescale",
    "DeepLIFT-MaxPool-gradient": "gradient",  # all that this rule of kundajelab's is
    "Gradient": "gradient",
    "FeatureAblation": "occlusion",
    "Occlusion": "occlusion",
    "InternalInfluence": "internal_influence",
    "NeuronConductance": "neuron_conductance",
    "LayerActivation": "layer_activation",
    "GradientShap": "expected_gradients",
    "LayerGradientShap": "expected_gradients",
    "NeuronGradientShap": "expected_gradients",
    "LayerGradCam": "grad_cam",
    "GuidedGradCam": "guided_grad_cam",
    "GuidedBackprop": "guided_backprop",
    "NeuronGuidedBackprop": "guided_backprop",
    "Deconvolution": "deconvnet",
    "NeuronDeconvolution": "deconvnet",
    "DeconvNet": "deconvnet",
    "LRP": "lrp",
    "LayerLRP": "lrp",
    "NoiseTunnel": "smoothgrad",  # or what its nt_type says, of another method of these
}
DROPPED_NOTHING = {"captum/equivalence/LRP==InputXGradient/test_lrp_ixg_equivalency#0": 0.99}
"""Recorded in training, with a Dropout of 0.01 that dropped nothing and divided by 0.99, which the graph has not."""
ARRAY = "test_classification_baselines_as_function#0"
TABLES = ("riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre")

REVEALING = frozenset({"DeepLIFT-RevealCancel", "DeepLIFT-revealcancel", "DeepLIFT-genomics_default"})
ONLY_DELTA, IN_DOUBLE, DEAD_UNIT = "compare only convergence_delta", "run in float64", "dead"
"""What a caution says: the library's own numbers are wrong, or ill-conditioned in float32, or come from a hidden unit
whose change is 0, where a quotient of rounding errors decides. In the first and the last only the sum has a meaning."""

ONLY_SUMS = (ONLY_DELTA, DEAD_UNIT)


SLICES = Path(__file__).parents[1] / "data" / "oracle"
"""What is committed of the file of cases: README.md there says what is left out."""


@functools.cache
def oracle() -> Json:
    """The file of cases where a folder of expected numbers is given, else the part that is committed."""
    name = os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")
    if name:
        whole: Json = json.loads((Path(name) / "oracle" / "cases.json").read_bytes())
        return whole
    return committed()


def committed() -> Json:
    """The parts of the file that are committed, together."""
    first, *others = (json.loads(lzma.decompress(path.read_bytes())) for path in sorted(SLICES.glob("*.xz")))
    found: Json = dict(first)
    for other in others:
        found["models"] = {**found["models"], **other["models"]}
        for part in ("cases", "equivalences"):
            found[part] = [*found[part], *other[part]]
    return found


# --- Which cases are meant


def cases() -> list[Json]:
    """The cases of our methods, but for one that is about an array of numpy in place of one of torch."""
    return [
        case
        for case in oracle()["cases"]
        if {case["method"], inner_of(case)} <= set(METHODS) and not case["id"].endswith(ARRAY)
    ]


def inner_of(case: Json) -> str:
    """The method that a case is about: of a noise tunnel the one inside of it."""
    return str(case.get("inner_method") or case["method"])


def tables() -> list[Json]:
    """The cases that list a quadrature's nodes and weights."""
    return [case for case in oracle()["cases"] if case["method"] in TABLES]


def equivalences() -> list[Json]:
    """The equivalences of two calls of our methods."""
    return [e for e in oracle()["equivalences"] if {e["lhs"]["method"], e["rhs"]["method"]} <= set(METHODS)]


def caution(case: Json) -> str:
    """What the caution of a case asks for: one of `ONLY_DELTA`, `IN_DOUBLE` and `DEAD_UNIT`, or nothing."""
    text = case.get("caution") or ""
    found = [kind for kind in (ONLY_DELTA, IN_DOUBLE, DEAD_UNIT) if kind in text]
    assert len(found) == bool(text), text
    return found[0] if found else ""


# --- Models and values


def model_of(name: str) -> onnx.ModelProto:
    """The ONNX model of a spec."""
    spec = oracle()["models"][name]["spec"]
    kinds = {"float32": 1, "float64": 11, "int64": 7, "int32": 6, "bool": 9}
    graph = helper.make_graph(
        [
            helper.make_node(n["op"], n["in"], n["out"], name=f"{n['op']}_{k}", **n["attrs"])
            for k, n in enumerate(spec["nodes"])
        ],
        name,
        [helper.make_tensor_value_info(i["name"], kinds[i["dtype"]], i["shape"]) for i in spec["inputs"]],
        [helper.make_empty_tensor_value_info(o) for o in spec["outputs"]],
        [numpy_helper.from_array(array(t), key) for key, t in spec["weights"].items()],
    )
    opsets = [helper.make_opsetid("", spec.get("opset", 17))]
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opsets, ir_version=9), data_prop=True
    )
    made = {v.name: v for v in [*model.graph.value_info, *model.graph.output]}
    outputs = [made[o] for o in spec["outputs"]]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


# --- Calls

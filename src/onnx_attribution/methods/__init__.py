"""The methods, each a value that carries its own parameters: what client, wire and command line read of them.

    NeuronIG(steps=256, tolerance=0.01)

How an engine evaluates a method is its recipe (`onnx_attribution.server.engine.recipe`). A method of your own is a
dataclass and a recipe, registered from anywhere; an entry point of the group `onnx_attribution.methods` names the
module that holds them. Needs numpy only.
"""

from __future__ import annotations

from onnx_attribution.methods.shared import Quadrature
from onnx_attribution.parameters import EMPTY, Parameter, bounded
from onnx_attribution.register import (
    Custom,
    Method,
    MethodInfo,
    failures,
    forget,
    info_of,
    make,
    register,
    registered,
    require_registered,
)

# In the order in which methods are listed.
# isort: off
from onnx_attribution.methods.gradient import Gradient, GradientXActivation
from onnx_attribution.methods.path import IntegratedGradients, NeuronIG
from onnx_attribution.methods.deeplift import (
    DeepLiftGenomicsDefault,
    DeepLiftRescale,
    DeepLiftRevealCancel,
    NearZero,
)
from onnx_attribution.methods.groups import KernelShap, Occlusion
from onnx_attribution.methods.hidden import InternalInfluence, LayerActivation, NeuronConductance
from onnx_attribution.methods.draws import ExpectedGradients, SmoothGrad, SmoothGradSquared, VarGrad
from onnx_attribution.methods.maps import (
    CamForm,
    FullGrad,
    FullGradTerms,
    GradCam,
    GradCamPlusPlus,
    GuidedGradCam,
    HiResCam,
    LayerCam,
    Sign,
    Upsample,
    XGradCam,
)
from onnx_attribution.methods.relevance import (
    DeconvNet,
    GuidedBackprop,
    Lrp,
    RectGrad,
)
from onnx_attribution.methods.trace import FbTrace
# isort: on

__all__ = [
    "DEFAULT",
    "EMPTY",
    "CamForm",
    "Custom",
    "DeconvNet",
    "DeepLiftGenomicsDefault",
    "DeepLiftRescale",
    "DeepLiftRevealCancel",
    "ExpectedGradients",
    "FbTrace",
    "FullGrad",
    "FullGradTerms",
    "GradCam",
    "GradCamPlusPlus",
    "Gradient",
    "GradientXActivation",
    "GuidedBackprop",
    "GuidedGradCam",
    "HiResCam",
    "IntegratedGradients",
    "InternalInfluence",
    "KernelShap",
    "LayerActivation",
    "LayerCam",
    "Lrp",
    "Method",
    "MethodInfo",
    "NearZero",
    "NeuronConductance",
    "NeuronIG",
    "Occlusion",
    "Parameter",
    "Quadrature",
    "RectGrad",
    "Sign",
    "SmoothGrad",
    "SmoothGradSquared",
    "Upsample",
    "VarGrad",
    "XGradCam",
    "bounded",
    "failures",
    "forget",
    "info_of",
    "make",
    "register",
    "registered",
    "require_registered",
]

DEFAULT: Method = NeuronIG()
"""What is evaluated where a request names no method."""

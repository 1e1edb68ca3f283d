"""The recipes of the methods, and the ways to evaluate one; importing this package fills the table of recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx_attribution.server.engine.methods import (
    activation,
    cam,
    deeplift,
    full_grad,
    gradient,
    kernel_shap,
    noise,
    occlusion,
    path,
    product,
    relevance,
    trace,
)
from onnx_attribution.server.engine.methods.stages import Driver, Stage
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import (
    AtInput,
    Biases,
    Coalitions,
    Draws,
    Ends,
    Groups,
    Path,
    Product,
    Trace,
    Values,
)
from onnx_attribution.server.engine.request.resolve import Resolved

__all__ = ["Stage", "cam", "relevance", "stages"]

INNER: Mapping[type, Driver] = {
    AtInput: gradient.stages,
    Biases: full_grad.stages,
    Path: path.stages,
    Ends: deeplift.stages,
    Groups: occlusion.stages,
    Coalitions: kernel_shap.stages,
    Product: product.stages,
    Trace: trace.stages,
    Values: activation.stages,
}
DRIVERS: Mapping[type, Driver] = {**INNER, Draws: noise.driver(INNER)}


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """The stages of the answer to a request, by where its recipe is evaluated."""
    return DRIVERS[type(asked[0].recipe.at)](model, asked, memory)

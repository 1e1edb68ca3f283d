"""A model, its attributions, and how far to trust them, in one process.

The network weighs income and debt; `neuron_ig` at the input is Integrated Gradients.
"""

import numpy as np
import onnx

from onnx_attribution import Engine, Target
from onnx_attribution.values import AttributionRequest

FEATURES = ("income", "debt", "age")
MODEL = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
credit (float[N,3] features) => (float[N,1] score)
<float[3,2] first = {2.0, 0.0, -1.0, 3.0, 0.1, 0.1}, float[2,1] second = {1.0, -1.0}>
{
    mixed = MatMul(features, first)
    hidden = Softplus(mixed)
    score = MatMul(hidden, second)
}
""")


def main() -> None:
    """Prints what each feature contributes to the score."""
    x = np.asarray([[1.0, 0.2, 0.4]], np.float32)
    with Engine(provider="cpu") as engine:
        engine.add("credit", MODEL)
        request = AttributionRequest(
            "credit", {"features": x}, "neuron_ig", target=Target("score", 0), tolerance=1e-3
        )
        answer = engine.attribute(request)
    layer = answer.layers["features"]
    before, after = answer.target.baseline_value[0], answer.target.value[0]
    print(f"score {after:.4f}, at the baseline of zeros {before:.4f}: a change of {after - before:.4f}")
    for name, value in zip(FEATURES, layer.values[0], strict=True):
        print(f"  {name:<8}{value:8.4f}")
    residual, error = layer.residual[0], layer.error_estimate[0]
    print(f"  {'sum':<8}{layer.sum[0]:8.4f}   residual {residual:.1e}, L1 error about {error:.1e}")
    print(f"{answer.evaluations} evaluations, {answer.steps} steps")


if __name__ == "__main__":
    main()

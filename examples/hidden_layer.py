"""Which neurons of a hidden layer matter: Neuron Integrated Gradients, and what a cut is.

The network adds its hidden layer to a skip connection. The layer before the sum is not a cut, since the skip bypasses
it: its sum is the part of the change that goes through it. The layer after the sum is a cut: its sum is all of it.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_attribution import Engine, Target
from onnx_attribution.values import AttributionRequest

GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
residual (float[N,4] x) => (float[N,3] scores) {
    a = MatMul(x, first)
    branch = Tanh(a)
    joined = Add(branch, x)
    b = Relu(joined)
    scores = MatMul(b, last)
}
"""


def model() -> onnx.ModelProto:
    """The network, with random weights."""
    rng, made = np.random.default_rng(1), onnx.parser.parse_model(GRAPH)
    for name, shape in (("first", (4, 4)), ("last", (4, 3))):
        made.graph.initializer.append(
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        )
    return made


def main() -> None:
    """Prints the neurons of both layers with their contributions."""
    x = np.asarray([[1.0, 1.5, -2.0, 0.8]], np.float32)
    with Engine(provider="cpu") as engine:
        engine.add("residual", model())
        request = AttributionRequest(
            "residual",
            {"x": x},
            "neuron_ig",
            ["branch", "joined"],
            target=Target("scores", 0),
            tolerance=0.01,
        )
        answer = engine.attribute(request)
    change = answer.target.value[0] - answer.target.baseline_value[0]
    print(f"{answer.target.tensor}[{answer.target.index[0]}] changes by {change:.4f}")
    for name, layer in answer.layers.items():
        neurons = "  ".join(f"{value:+.4f}" for value in layer.values[0])
        print(f"{name:<7} cut: {'yes' if layer.cut else 'no '}  {neurons}  sum {layer.sum[0]:+.4f}")
    print(f"what bypasses the branch: {-answer.layers['branch'].residual[0]:+.4f}")


if __name__ == "__main__":
    main()

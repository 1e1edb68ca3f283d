"""A server and a client: the answer is refined while the client watches.

Here the server runs in a thread; `onnx-attribution serve FOLDER` is the same as a process of its own.
"""

from pathlib import Path

import numpy as np

from onnx_attribution import Client, Engine
from onnx_attribution.server.app import background
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Accepted, Completed, Revision

DIGITS = Path(__file__).parents[1] / "tests" / "data" / "digits"


def main() -> None:
    """Prints the layers of a model, then the revisions of an attribution as they arrive."""
    image = np.load(DIGITS / "digits.npz")["images"][3:4]
    with Engine(provider="cpu") as engine:
        engine.add("digits", DIGITS / "digits.onnx")
        with background(engine, Settings(port=0)) as (address, _), Client(address) as client:
            for info in client.layers("digits", "Conv"):
                print(f"layer {info.name}: {info.operator}, shape {info.shape}")
            with client.stream(
                "digits", image, method="neuron_ig", layers=["conv2"], target=7, steps=8, tolerance=0.02
            ) as events:
                for event in events:
                    match event:
                        case Accepted():
                            print(f"accepted: {event.planned_evaluations} evaluations to begin with")
                        case Revision():
                            layer = event.attribution.layers["conv2"]
                            steps, error = event.attribution.steps, layer.error_estimate[0]
                            print(f"  {steps:4} steps: sum {layer.sum[0]:.4f}, L1 error about {error:.4f}")
                        case Completed():
                            print(f"{event.stop_reason}; revision {event.best_revision} is the best")


if __name__ == "__main__":
    main()

"""Which channels of a hidden layer tell a 9 from a 4: activations of one image are patched into the run of another.

A layer that all of the image passes carries everything: patched whole, the target is that of the other image. Channels
patched one by one show which of them the decision rests on, and removing them shows that it does.
"""

from pathlib import Path

import numpy as np

from onnx_attribution import Engine, Target
from onnx_attribution.interventions import Edit, Patch

DATA = Path(__file__).parents[1] / "tests" / "data" / "digits"
LAYER, CHANNELS = "relu2", 32


def main() -> None:
    """Prints the difference of the logits of both classes as the layer, and each of its channels, is patched."""
    digits = np.load(DATA / "digits.npz")
    nine, four = ({"image": digits["images"][digits["labels"] == k][:1]} for k in (9, 4))
    target = Target("logits", 9, minus=4)
    with Engine(provider="cpu") as engine:
        engine.add("digits", DATA / "digits.onnx")
        whole = engine.intervene("digits", nine, [Edit(LAYER, to=Patch())], donors=four, target=target)
        other = engine.intervene("digits", four, [[]], target=target)
        print(f"logit of 9 less that of 4: {whole.target.value[0]:.3f} of the nine")
        print(
            f"{LAYER} of the four in the nine: {whole.values[0, 0]:.3f}, in the four: {other.values[0, 0]:.3f}"
        )
        each = [Edit(LAYER, k, to=Patch()) for k in range(CHANNELS)]
        patched = engine.intervene("digits", nine, each, donors=four, target=target)
        order = np.argsort(patched.effects[:, 0])
        for k in order[:3]:
            print(f"  channel {k:2} alone changes it by {patched.effects[k, 0]:+.3f}")
        most = [Edit(LAYER, k) for k in order[:8].tolist()]
        removed = engine.intervene("digits", nine, [most], target=target)
        print(f"without the eight channels of the largest effects: {removed.values[0, 0]:.3f}")


if __name__ == "__main__":
    main()

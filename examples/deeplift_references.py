"""DeepLIFT of a digit against several references: the mean over them, and how far they disagree."""

from pathlib import Path

import numpy as np

from onnx_attribution import Engine, References, Target
from onnx_attribution.values import AttributionRequest

DIGITS = Path(__file__).parents[1] / "tests" / "data" / "digits"
SHADES = " .:-=+*#%@"


def main() -> None:
    """Prints the map of the digit's class, and its sum for one reference and for ten."""
    with np.load(DIGITS / "digits.npz") as data:
        images, label = data["images"], int(data["labels"][3])
    with Engine(provider="cpu") as engine:
        engine.add("digits", DIGITS / "digits.onnx")
        answers = {
            words: engine.attribute(
                AttributionRequest(
                    "digits",
                    {"image": images[3:4]},
                    "deeplift_rescale",
                    target=Target("logits", label),
                    baselines={"image": baseline},
                )
            )
            for words, baseline in (("zeros", 0.0), ("ten other digits", References(images[10:20])))
        }
    for words, answer in answers.items():
        layer = answer.layers["image"]
        change = answer.target.value[0] - answer.target.baseline_value[0]
        spread = "" if np.isnan(layer.spread[0]) else f", spread {layer.spread[0]:.3f}"
        print(f"against {words}: sum {layer.sum[0]:.4f} of a change of {change:.4f}{spread}")
    found = answers["ten other digits"].layers["image"].values[0, 0]
    print(f"for a {label}, against ten other digits (dark: contributes much, either way)")
    for row in np.abs(found) / np.abs(found).max():
        print("  " + "".join(2 * SHADES[int(value * (len(SHADES) - 1))] for value in row))


if __name__ == "__main__":
    main()

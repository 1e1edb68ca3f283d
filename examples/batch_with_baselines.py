"""Several samples in one request, each with baselines of its own and its own target."""

from pathlib import Path

import numpy as np

from onnx_attribution import Engine, References, Target
from onnx_attribution.values import AttributionRequest

DIGITS = Path(__file__).parents[1] / "tests" / "data" / "digits"
SAMPLES, BASELINES = 4, 3


def main() -> None:
    """Prints, for each digit, why the network says so rather than what it says of digits of another class."""
    with np.load(DIGITS / "digits.npz") as data:
        images, labels = data["images"], data["labels"]
    # for each sample the first digits that are of another class: [samples, baselines, 1, 8, 8]
    others = np.stack([images[labels != label][:BASELINES] for label in labels[:SAMPLES]])
    with Engine(provider="cpu") as engine:
        engine.add("digits", DIGITS / "digits.onnx")
        answer = engine.attribute(
            AttributionRequest(
                "digits",
                {"image": images[:SAMPLES]},
                "integrated_gradients",
                target=Target("logits", [int(label) for label in labels[:SAMPLES]]),
                baselines={"image": References(others, per_sample=True)},
                steps=128,
            )
        )
    layer = answer.layers["image"]
    print(
        f"batch {answer.batch}: {SAMPLES} samples with {BASELINES} baselines, {answer.evaluations} evaluations"
    )
    print("sample  target     change      sum   spread  row that counts most")
    change = answer.target.value - answer.target.baseline_value
    for k in range(SAMPLES):
        row = int(np.abs(layer.values[k, 0]).sum(axis=1).argmax())
        target = f"{answer.target.tensor}[{answer.target.index[k]}]"
        print(f"{k:6}  {target:<9}{change[k]:8.3f} {layer.sum[k]:8.3f} {layer.spread[k]:8.3f}  {row}")


if __name__ == "__main__":
    main()

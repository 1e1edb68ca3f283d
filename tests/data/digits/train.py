"""Trains the digits model of the demo and the tests; writes digits.onnx, digits_fixed.onnx and digits.npz.

So it does a model that has never seen a nine: without_nine.onnx, and without_nine.npz whose last 36 images are the
nines.

Needs torch, onnx and scikit-learn: `pip install onnx-attribution[peers,dev]`, then
`python tests/data/digits/train.py`. Prints the accuracy on the held-out digits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
EPOCHS = 60
Weights = dict[str, NDArray[np.float32]]


def train(images: torch.Tensor, labels: torch.Tensor, classes: int = 10) -> torch.nn.Sequential:
    """Returns the trained network: image [N, 1, 8, 8] in 0..1 to logits [N, classes]."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(512, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, classes),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
        schedule.step()
    return network.eval()


def export(weights: Weights, batch: int | str) -> onnx.ModelProto:
    """Returns the network as ONNX; an int batch is baked into the Reshape, as exporters do."""
    if isinstance(batch, int):
        flatten = helper.make_node("Reshape", ["pool", "flat_shape"], ["flat"], "/Reshape")
        weights = {**weights, "flat_shape": np.array([batch, 512])}
    else:
        flatten = helper.make_node("Flatten", ["pool"], ["flat"], "/Flatten")
    nodes = [
        helper.make_node(
            "Conv", ["image", "conv1.weight", "conv1.bias"], ["conv1"], "/conv1/Conv", pads=[1] * 4
        ),
        helper.make_node("Relu", ["conv1"], ["relu1"], "/relu1/Relu"),
        helper.make_node(
            "Conv", ["relu1", "conv2.weight", "conv2.bias"], ["conv2"], "/conv2/Conv", pads=[1] * 4
        ),
        helper.make_node("Relu", ["conv2"], ["relu2"], "/relu2/Relu"),
        helper.make_node(
            "MaxPool", ["relu2"], ["pool"], "/pool/MaxPool", kernel_shape=[2, 2], strides=[2, 2]
        ),
        flatten,
        helper.make_node(
            "Gemm", ["flat", "dense1.weight", "dense1.bias"], ["dense1"], "/dense1/Gemm", transB=1
        ),
        helper.make_node("Relu", ["dense1"], ["relu3"], "/relu3/Relu"),
        helper.make_node(
            "Gemm", ["relu3", "dense2.weight", "dense2.bias"], ["logits"], "/dense2/Gemm", transB=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(weights["dense2.bias"])])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model, full_check=True)
    return model


def weights_of(network: torch.nn.Sequential) -> Weights:
    """Returns the weights by the names that they have in the file."""
    names = {"0": "conv1", "2": "conv2", "7": "dense1", "9": "dense2"}
    weights = {}
    for key, value in network.state_dict().items():
        place, kind = key.split(".")
        weights[f"{names[place]}.{kind}"] = value.numpy()
    return weights


def main() -> None:
    """Trains, exports and saves."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    network = train(torch.from_numpy(train_images), torch.from_numpy(train_labels))
    with torch.no_grad():
        logits = network(torch.from_numpy(test_images)).numpy()
    print(f"held-out accuracy: {(logits.argmax(1) == test_labels).mean():.4f} of {len(test_labels)} digits")

    weights = weights_of(network)
    onnx.save(export(weights, "N"), HERE / "digits.onnx")
    onnx.save(export(weights, 1), HERE / "digits_fixed.onnx")
    np.savez_compressed(HERE / "digits.npz", images=test_images, labels=test_labels)

    seen = train_labels < 9
    network = train(torch.from_numpy(train_images[seen]), torch.from_numpy(train_labels[seen]), 9)
    onnx.save(export(weights_of(network), "N"), HERE / "without_nine.onnx")
    order = np.argsort(test_labels == 9, kind="stable")
    np.savez_compressed(HERE / "without_nine.npz", images=test_images[order], labels=test_labels[order])


if __name__ == "__main__":
    main()

"""The network on which the definitions are written out: y = v · relu(W₂ relu(W₁ x + b₁) + b₂), W₁ a convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.methods.toys import model

Floats = NDArray[np.float64]
SOURCE, HIDDEN, TARGET = "x", "h", "y"


def relu(z: Floats) -> Floats:
    return np.maximum(z, 0)


@dataclass(frozen=True)
class Net:
    """The weights; arrays of samples have one row a sample."""

    kernel: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    v: Floats

    @property
    def w1(self) -> Floats:
        """The convolution as a matrix, `[inputs, units]`."""
        size = len(self.b1) + len(self.kernel) - 1
        found = np.zeros((size, len(self.b1)))
        for unit in range(len(self.b1)):
            found[unit : unit + len(self.kernel), unit] = self.kernel
        return found

    def z1(self, x: Floats) -> Floats:
        return np.asarray(x @ self.w1 + self.b1)

    def hidden(self, x: Floats) -> Floats:
        return relu(self.z1(x))

    def z2(self, h: Floats) -> Floats:
        return np.asarray(h @ self.w2 + self.b2)

    def from_hidden(self, h: Floats) -> Floats:
        return np.asarray(relu(self.z2(h)) @ self.v)

    def value(self, x: Floats) -> Floats:
        return self.from_hidden(self.hidden(x))

    def at(self, layer: str, x: Floats) -> Floats:
        """The layer's values."""
        return x if layer == SOURCE else self.hidden(x)

    def from_layer(self, layer: str, values: Floats) -> Floats:
        """The target from the layer's values."""
        return self.value(values) if layer == SOURCE else self.from_hidden(values)

    def gradient(self, layer: str, x: Floats) -> Floats:
        """The derivative of the target with respect to the layer, at the input x, by the chain rule."""
        return self.gradient_from(layer, self.at(layer, x))

    def gradient_from(self, layer: str, values: Floats) -> Floats:
        """The derivative with respect to the layer, at its own values."""
        h = self.hidden(values) if layer == SOURCE else values
        g = ((self.z2(h) > 0) * self.v) @ self.w2.T
        return np.asarray(((self.z1(values) > 0) * g) @ self.w1.T if layer == SOURCE else g)

    def model(self) -> onnx.ModelProto:
        """The same as a model, in float32: onnxruntime has no other convolution."""
        return model(
            f"""(float[N,{len(self.w1)}] x) => (float[N,1] y) {{
                row = Unsqueeze(x, one)
                c = Conv(row, kernel, bias)
                h1 = Relu(c)
                h = Squeeze(h1, one)
                z2 = Gemm(h, w2, b2)
                h2 = Relu(z2)
                y = MatMul(h2, v)
            }}""",
            one=np.array([1]),
            kernel=self.kernel.reshape(1, 1, -1).astype(np.float32),
            bias=self.b1[:1].astype(np.float32),
            w2=self.w2.astype(np.float32),
            b2=self.b2.astype(np.float32),
            v=self.v[:, None].astype(np.float32),
        )


def drawn(seed: int) -> tuple[Net, Floats, Floats]:
    """A network, three samples and a baseline for each, on which units of both layers change sides."""
    rng = np.random.default_rng(seed)
    net = Net(
        rng.normal(size=2),
        np.full(4, 0.1),
        rng.normal(size=(4, 5)),
        0.2 * rng.normal(size=5),
        rng.normal(size=5),
    )
    return net, rng.normal(size=(3, 5)), rng.normal(size=(3, 5))

"""Small convolutional networks over one, two or three axes of positions, and what is asked of their maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest
from tests.definitions.maps import Weigh, mapped
from tests.methods.toys import Floats, model


def convolutional(rank: int, *, last: bool = False) -> onnx.ModelProto:
    """Two convolutions over so many axes of positions, a head on their outputs; `last`: the maps of `tokens`, whose
    channels are the last axis."""
    rng = np.random.default_rng(rank)
    sizes = (6, 5, 4)[:rank]
    left = tuple(size - 2 for size in sizes)
    axes = ",".join(map(str, sizes))
    kernel = (2,) * rank
    moved = ",".join(map(str, (0, *range(2, rank + 2), 1)))
    tokens, end = (f"tokens = Transpose<perm=[{moved}]>(r2)", "tokens") if last else ("", "r2")
    nodes = f"""
        c1 = Conv(x, k1, b1)
        r1 = Relu(c1)
        c2 = Conv(r1, k2, b2)
        r2 = Relu(c2)
        {tokens}
        f = Flatten({end})
        d = Gemm(f, w, b)
        t = Tanh(d)
        y = MatMul(t, v)"""
    floats: dict[str, Any] = {
        "k1": rng.normal(size=(4, 3, *kernel)), "b1": 0.3 * rng.normal(size=4),
        "k2": rng.normal(size=(5, 4, *kernel)) / 2, "b2": 0.3 * rng.normal(size=5),
        "w": rng.normal(size=(5 * int(np.prod(left)), 6)) / 8, "b": rng.normal(size=6),
        "v": rng.normal(size=(6, 3)),
    }  # fmt: skip
    if last:  # the same head of what lies in another order
        floats["w"] = np.moveaxis(floats["w"].reshape(5, -1, 6), 0, 1).reshape(-1, 6)
    weights = {name: array.astype(np.float32) for name, array in floats.items()}
    return model(f"(float[N,3,{axes}] x) => (float[N,3] y) {{ {nodes} }}", **weights)


def inputs(rank: int, samples: int = 3) -> Floats:
    return np.random.default_rng(10 + rank).normal(size=(samples, 3, *(6, 5, 4)[:rank])).astype(np.float32)


def nets() -> Engine:
    """An engine that knows them: `net1` to `net3`, and `tokens1` to `tokens3`, whose channels come last."""
    made = Engine(provider="cpu", threads=1)
    for rank in (1, 2, 3):
        made.add(f"net{rank}", convolutional(rank))
        made.add(f"tokens{rank}", convolutional(rank, last=True))
    return made


def asked(engine: Engine, name: str, x: Any, method: str, layers: Any = (), **changed: Any) -> Any:
    layers = [layers] if isinstance(layers, str) else layers
    target = changed.pop("target", 1)
    return engine.attribute(AttributionRequest(name, {"x": x}, method, layers, target=target, **changed))


def ends(engine: Engine, name: str, x: Any, layer: str, target: Any = 1) -> tuple[Floats, Floats]:
    """Gradient and values of a layer, `[samples, channels, *positions]`, of methods that are tested elsewhere."""
    gradient = asked(engine, name, x, "gradient", layer, target=target).layers[layer].values
    values = asked(engine, name, x, "layer_activation", layer, target=target).layers[layer].values
    return gradient.astype(np.float64), values.astype(np.float64)


def defined(pair: tuple[Floats, Floats], weigh: Weigh, **parameters: bool) -> Floats:
    return np.stack([mapped(g, a, weigh, **parameters) for g, a in zip(*pair, strict=True)])


def assert_is(found: Any, wanted: Floats) -> None:
    """Equal up to the rounding of float32; what is 0.05 % off is not."""
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6 * scale)
    assert not scale or np.abs(1.0005 * wanted - wanted).max() > 1e-5 * scale

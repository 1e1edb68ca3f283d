"""Networks of published shapes in plain torch, with random weights; speed depends on shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _normed(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after)]


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut; each activation is a module of its own, as Captum wants it."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.body = nn.Sequential(
            *_normed(before, width, 1), nn.ReLU(),
            *_normed(width, width, 3, stride), nn.ReLU(),
            *_normed(width, after, 1),
        )  # fmt: skip
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else nn.Sequential(*_normed(before, after, 1, stride))
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network of bottlenecks (arXiv 1512.03385); ResNet-50 with its defaults."""

    def __init__(self, blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_normed(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        stages, before = [], width
        for stage, count in enumerate(blocks):
            made = []
            for block in range(count):
                made.append(Bottleneck(before, width << stage, 2 if stage and not block else 1))
                before = 4 * (width << stage)
            stages.append(nn.Sequential(*made))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


class InvertedResidual(nn.Module):
    """Widens, convolves each channel alone, and narrows; added to its input where the shapes agree."""

    def __init__(self, before: int, after: int, stride: int, widen: int) -> None:
        super().__init__()
        inner = before * widen
        wide = [] if widen == 1 else [*_normed(before, inner, 1), nn.ReLU6()]
        self.body = nn.Sequential(
            *wide, *_normed(inner, inner, 3, stride, groups=inner), nn.ReLU6(), *_normed(inner, after, 1)
        )
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class MobileNetV2(nn.Module):
    """arXiv 1801.04381; `stages` are its (widening, channels, blocks, stride)."""

    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, stages: Sequence[tuple[int, int, int, int]] = STAGES, last: int = 1280) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_normed(3, 32, 3, 2), nn.ReLU6()]
        before = 32
        for widen, after, count, stride in stages:
            for block in range(count):
                layers.append(InvertedResidual(before, after, 1 if block else stride, widen))
                before = after
        layers += [*_normed(before, last, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(last, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU(),
        nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """An encoder and a decoder with skips (arXiv 1505.04597), and the mean of its two maps."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in steps)
        self.merge = nn.ModuleList(_double(2 * b, b) for _, b in steps)
        self.last = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.down[0](x), []
        for pool, down in zip(self.pools, self.down[1:], strict=True):
            skips.append(x)
            x = down(pool(x))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], 1))
        return self.last(x).mean((2, 3))


class Recurrent(nn.Module):
    """Two layers of LSTM over `[N, steps, features]`, and ten classes of the last step."""

    def __init__(self, features: int = 64, width: int = 256) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, 2, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    """Self-attention of `[N, tokens, width]`, written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.softmax = nn.Softmax(-1)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(y.shape[0], y.shape[1], self.heads, -1).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weights = self.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5)
        return self.out((weights @ value).transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Attention and two dense layers with a GELU; `first`: normalised before each part (ViT), else after it (BERT)."""

    def __init__(self, width: int, heads: int, first: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = x + self.attention(self.norm1(x))
            return x + self.dense(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.dense(x))


class VisionTransformer(nn.Module):
    """arXiv 2010.11929: patches of 16 x 16 pixels; ViT-B/16 with 12 layers."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12, size: int = 224) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, (size // 16) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, True) for _ in range(layers))
        self.norm = nn.LayerNorm(width, 1e-12)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Encoder(nn.Module):
    """BERT (arXiv 1810.04805) from the embeddings of its tokens, `[N, tokens, width]`, to two classes."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12, tokens: int = 512) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.norm = nn.LayerNorm(width, 1e-12)
        self.blocks = nn.ModuleList(Block(width, heads, False) for _ in range(layers))
        self.pool = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.places[:, : x.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x[:, 0]))


def seeded(make: type[nn.Module], **arguments: object) -> nn.Module:
    """The network, the same each time: normalisations of different strength, transformers as before training."""
    torch.manual_seed(0)
    network = make(**arguments).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
        if isinstance(module, nn.Linear) and isinstance(network, VisionTransformer | Encoder):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return network

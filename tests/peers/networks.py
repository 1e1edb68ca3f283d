"""Small networks in plain torch, one a family of architectures; their weights are random."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Depthwise(nn.Module):
    """Depthwise and grouped convolutions, as in MobileNet: `[N, 3, 16, 16]` to `[N, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish())
        self.grouped = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.SiLU())
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        features = self.pool(self.grouped(self.depthwise(self.stem(image))))
        return self.head(functional.adaptive_avg_pool2d(features, 1).flatten(1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if stride == 1 and before == after
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return self.relu(inner + self.shortcut(x))


class ResNet18(nn.Module):
    """The graph of ResNet-18 with an eighth of its channels: `[N, 3, 32, 32]` to `[N, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = [(8, 8, 1), (8, 16, 2), (16, 32, 2), (32, 64, 2)]
        self.stages = nn.Sequential(
            *(nn.Sequential(BasicBlock(a, b, s), BasicBlock(b, b, 1)) for a, b, s in widths)
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.average(self.stages(self.pool(self.stem(image)))).flatten(1))


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(after, after, 3, padding=1),
        nn.ELU(),
    )


class UNet(nn.Module):
    """An encoder and a decoder with skips: a transposed convolution and a bilinear resize; keeps the image's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _double(1, 4), _double(4, 8), _double(8, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 8, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.merge2, self.merge1 = _double(16, 8), _double(12, 4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.down1(image)
        coarse = self.down2(functional.max_pool2d(fine, 2))
        bottom = self.bottom(functional.avg_pool2d(coarse, 2))
        coarse = self.merge2(torch.cat([self.up2(bottom), coarse], 1))
        return self.head(self.merge1(torch.cat([self.up1(coarse), fine], 1)))


class Recurrent(nn.Module):
    """Two bidirectional layers of `kind` over `[N, 12, 6]`, and a head on the last step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.first = kind(8, 8, batch_first=True, bidirectional=True)
        self.between = nn.Linear(16, 8)
        self.second = kind(8, 8, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))

    def forward(self, sequence: Tensor) -> Tensor:
        steps, _ = self.first(torch.tanh(self.embed(sequence)))
        steps, _ = self.second(torch.tanh(self.between(steps)))
        return self.head(steps[:, -1])


class Audio(nn.Module):
    """Strided and dilated Conv1d with gates, as in WaveNet: `[N, 1, 256]` to `[N, 6]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 9, stride=4, padding=4)
        self.filters = nn.ModuleList(nn.Conv1d(8, 16, 3, padding=2**k, dilation=2**k) for k in range(3))
        self.mixers = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.head = nn.Linear(16, 6)

    def forward(self, wave: Tensor) -> Tensor:
        x = self.stem(wave)
        for filters, mixer in zip(self.filters, self.mixers, strict=True):
            x = x + mixer(functional.glu(filters(x), dim=1))
        x = functional.gelu(x)
        return self.head(torch.cat([x.mean(-1), x.std(-1)], 1))


class Volume(nn.Module):
    """Conv3d, pooling and instance normalisation over `[N, 1, 8, 8, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.InstanceNorm3d(6, affine=True), nn.ELU())
        self.second = nn.Sequential(nn.Conv3d(6, 8, 3, padding=1, groups=2), nn.Softplus())
        self.pool = nn.AvgPool3d(2)
        self.head = nn.Linear(8 * 8, 4)

    def forward(self, volume: Tensor) -> Tensor:
        return self.head(self.pool(self.second(functional.max_pool3d(self.first(volume), 2))).flatten(1))


class Diffusion(nn.Module):
    """A residual block of a diffusion model: GroupNorm, SiLU, the time as sines, and attention over pixels."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(4, channels), nn.GroupNorm(2, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.time = nn.Sequential(nn.Linear(16, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.head = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        phases = step[:, None].float() * torch.exp(-torch.arange(8) * (math.log(1000.0) / 8))
        time = self.time(torch.cat([phases.sin(), phases.cos()], 1))
        x = self.stem(image)
        inner = self.conv1(functional.silu(self.norm1(x))) + time[:, :, None, None]
        x = x + self.conv2(functional.silu(self.norm2(inner)))
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), -1)
        return self.head(x + (v @ weights.transpose(1, 2)).reshape(x.shape))


class Mixture(nn.Module):
    """A mixture of experts over tokens `[N, 6, 8]`: TopK chooses two of four, GatherND picks their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.gate = nn.Linear(12, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12)) for _ in range(4)
        )
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        scores, chosen = torch.topk(self.gate(x), 2, dim=-1)
        made = torch.stack([expert(x) for expert in self.experts], 2)  # [N, tokens, experts, features]
        samples = torch.arange(x.shape[0])[:, None, None]
        places = torch.arange(x.shape[1])[None, :, None]
        picked = made[samples, places, chosen]
        mixed = (torch.softmax(scores, -1)[..., None] * picked).sum(2)
        return self.head(self.norm(x + mixed).mean(1))


class Selective(nn.Module):
    """A selective state space layer, as in Mamba, over `[N, 10, 8]`: a causal convolution and a gated scan."""

    def __init__(self, features: int = 8, states: int = 4) -> None:
        super().__init__()
        self.expand = nn.Linear(features, 2 * features)
        self.conv = nn.Conv1d(features, features, 3, padding=2, groups=features)
        self.project = nn.Linear(features, 2 * states + 1)
        self.step = nn.Linear(1, features)
        self.decay = nn.Parameter(torch.zeros(features, states))
        self.out = nn.Linear(features, features)
        self.head = nn.Linear(features, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        x, gate = self.expand(sequence).chunk(2, -1)
        x = functional.silu(self.conv(x.transpose(1, 2))[..., : sequence.shape[1]].transpose(1, 2))
        states = self.decay.shape[1]
        write, read, delta = self.project(x).split([states, states, 1], -1)
        delta = functional.softplus(self.step(delta))
        keep = torch.exp(-delta[..., None] * torch.exp(self.decay))
        added = (delta * x)[..., None] * write[:, :, None]
        state, made = torch.zeros_like(added[:, 0]), []
        for t in range(sequence.shape[1]):
            state = keep[:, t] * state + added[:, t]
            made.append((state * read[:, t, None]).sum(-1))
        y = self.out(torch.stack(made, 1) * functional.silu(gate))
        return self.head((sequence + y).mean(1))


class Seq2Seq(nn.Module):
    """Torch's own Transformer, encoder and decoder with a causal mask: `[N, 7, 8]` and `[N, 5, 8]` to `[N, 5, 4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        )
        self.memory = nn.Linear(8, 8)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1)
        self.head = nn.Linear(8, 4)

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        causal = torch.triu(torch.full((5, 5), float("-inf")), diagonal=1)
        return self.head(
            self.decoder(before, self.memory(self.encoder(source)), tgt_mask=causal, tgt_is_causal=True)
        )


class SuperResolution(nn.Module):
    """PReLU, dense concatenation, PixelShuffle, and a bicubic shortcut: `[N, 1, 8, 8]` to `[N, 1, 16, 16]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2, padding_mode="reflect"), nn.PReLU(6))
        self.dense = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Mish())
        self.grow = nn.Conv2d(12, 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = self.grow(torch.cat([x, self.dense(x)], 1))
        return self.shuffle(x) + functional.interpolate(image, scale_factor=2, mode="bicubic")


class SpatialTransformer(nn.Module):
    """An image that is sampled where a small network says, and then classified: `[N, 2, 12, 12]` to `[N, 4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(nn.Conv2d(2, 4, 5, stride=3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 6))
        self.conv = nn.Sequential(nn.Conv2d(2, 6, 3), nn.CELU())
        self.dense = nn.Sequential(nn.Linear(6 * 25, 8), nn.SELU())
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        turn = torch.eye(2, 3) + 0.3 * self.locate(image).reshape(-1, 2, 3)
        y, x = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 12), indexing="ij")
        points = torch.stack([x, y, torch.ones_like(x)], -1).reshape(1, 144, 3)
        grid = (points @ turn.transpose(1, 2)).reshape(-1, 12, 12, 2)
        seen = functional.grid_sample(image, grid, padding_mode="border", align_corners=True)
        return self.head(self.dense(functional.avg_pool2d(self.conv(seen), 2).flatten(1)))


class Recommender(nn.Module):
    """Numbers and categories that meet in products of pairs, as in DLRM: `[N, 5]` and `[N, 3]` to `[N, 2]`."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 6) for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(5, 12), nn.Softsign(), nn.Linear(12, 6))
        self.cross = nn.Linear(6 + 6, 10)
        self.head = nn.Linear(10, 2)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        clean = torch.where(numbers > 2, 2 + torch.log1p(functional.relu(numbers - 2)), numbers.clamp(min=-2))
        x = self.bottom(clean)
        vectors = torch.stack([x, *(table(categories[:, k]) for k, table in enumerate(self.tables))], 1)
        products = torch.einsum("nif,njf->nij", vectors, vectors)
        rows, columns = torch.tril_indices(4, 4, offset=-1).unbind()
        crossed = torch.cat([x, products[:, rows, columns]], 1)
        return self.head(functional.normalize(self.cross(crossed), dim=-1))

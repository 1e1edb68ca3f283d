"""The architectures that are compared: a network, its inputs, the source, three hidden layers and the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

from tests.peers import networks

SAMPLES = 3
TOKENS = 10
WORDS = 50


@dataclass(frozen=True)
class Architecture:
    """`layers` and `source` name modules, whose output is meant; no source: the first input.

    `inputs` maps the names of the inputs to tensors of `SAMPLES` samples, in the order of `forward`; `axes` names the
    first axes of all of them, which are dynamic. `target` is the index of the explained element of the output, without
    the batch axis.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: dict[str, Tensor]
    layers: tuple[str, str, str]
    target: tuple[int, ...]
    source: str = ""
    axes: tuple[str, ...] = ("batch",)

    def network(self) -> nn.Module:
        """The network in evaluation mode; its random weights are the same at every call."""
        torch.manual_seed(0)
        network = self.build()
        with torch.no_grad():
            for name, value in [*network.named_parameters(), *network.named_buffers()]:
                if not value.is_floating_point():
                    continue
                if name.endswith("running_var"):
                    value.uniform_(0.5, 1.5)
                elif name.endswith("running_mean") or isinstance(value, nn.Parameter):
                    _fill(name, value)
        return network.eval()


def _fill(name: str, value: Tensor) -> None:
    """Draws a weight such that activations keep their size; vectors vary about the value they have."""
    if value.ndim < 2:
        value.add_(0.2 * torch.randn_like(value))
    elif "embed" in name and value.shape[0] == WORDS:
        value.normal_()
    else:
        value.normal_(std=value[0].numel() ** -0.5)


class Logits(nn.Module):
    """A network of transformers of which only the first output is kept."""

    def __init__(self, network: nn.Module, **options: object) -> None:
        super().__init__()
        self.network = network
        self.options = options

    def forward(self, first: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is None:
            return self.network(first, return_dict=False, **self.options)[0]
        return self.network(first, attention_mask=attention_mask, return_dict=False, **self.options)[0]


def _vit() -> nn.Module:
    return Logits(
        transformers.ViTForImageClassification(
            transformers.ViTConfig(
                hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32,
                image_size=16, patch_size=4, num_labels=6,
            )
        )
    )  # fmt: skip


def _bert() -> nn.Module:
    return Logits(
        transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=WORDS, hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
                intermediate_size=32, max_position_embeddings=16, num_labels=4,
            )
        )
    )  # fmt: skip


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=4, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    return Logits(transformers.GPT2LMHeadModel(config), use_cache=False)


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return Logits(transformers.LlamaForCausalLM(config), use_cache=False)


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=WORDS,
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        attn_implementation="eager",
    )
    return Logits(transformers.T5EncoderModel(config))


def _swin() -> nn.Module:
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=4, num_labels=5,
        attn_implementation="eager",  # torch 2.13 cannot decompose its fused attention over windows
    )  # fmt: skip
    return Logits(transformers.SwinForImageClassification(config))


def _random(*shape: int) -> Tensor:
    return torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(1))


def _tokens() -> Tensor:
    return torch.randint(2, WORDS, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(2))


def _mask() -> Tensor:
    """Ones for the tokens of each sample; the second has fewer, so that samples differ in what they mask."""
    lengths = torch.tensor([TOKENS, TOKENS - 3, TOKENS - 1])
    return (torch.arange(TOKENS)[None] < lengths[:, None]).long()


ARCHITECTURES = (
    Architecture(
        "depthwise", networks.Depthwise, {"image": _random(3, 16, 16)}, ("stem", "depthwise", "grouped"), (3,)
    ),
    Architecture(
        "resnet18",
        networks.ResNet18,
        {"image": _random(3, 32, 32)},
        ("stem", "stages.1.0.relu", "stages.2.1"),
        (3,),
    ),
    Architecture(
        "unet", networks.UNet, {"image": _random(1, 16, 16)}, ("down1", "bottom", "merge2"), (0, 5, 9)
    ),
    Architecture(
        "vit",
        _vit,
        {"image": _random(3, 16, 16)},
        ("network.vit.embeddings", "network.vit.layers.0", "network.vit.layers.1.layernorm_after"),
        (2,),
    ),
    Architecture(
        "swin",
        _swin,
        {"image": _random(3, 16, 16)},
        (
            "network.swin.embeddings.norm",
            "network.swin.encoder.layers.0.blocks.1.layernorm_after",
            "network.swin.layernorm",
        ),
        (2,),
    ),
    Architecture(
        "bert",
        _bert,
        {"tokens": _tokens(), "attention_mask": _mask()},
        (
            "network.bert.embeddings.LayerNorm",
            "network.bert.encoder.layer.0.intermediate",
            "network.bert.encoder.layer.1.output",
        ),
        (2,),
        "network.bert.embeddings.word_embeddings",
        ("batch", "length"),
    ),
    Architecture(
        "gpt2",
        _gpt2,
        {"tokens": _tokens(), "attention_mask": _mask()},
        (
            "network.transformer.h.0.attn.c_proj",
            "network.transformer.h.0.mlp.act",
            "network.transformer.h.1.ln_2",
        ),
        (TOKENS - 4, 7),
        "network.transformer.wte",
        ("batch", "length"),
    ),
    Architecture(
        "llama",
        _llama,
        {"tokens": _tokens(), "attention_mask": _mask()},
        (
            "network.model.layers.0.self_attn.o_proj",
            "network.model.layers.0.mlp",
            "network.model.layers.1.post_attention_layernorm",
        ),
        (TOKENS - 4, 7),
        "network.model.embed_tokens",
    ),
    Architecture(
        "t5",
        _t5,
        {"tokens": _tokens(), "attention_mask": _mask()},
        (
            "network.encoder.block.0.layer.0.SelfAttention.o",
            "network.encoder.block.0.layer.1.DenseReluDense.wi_1",
            "network.encoder.block.1.layer.1.layer_norm",
        ),
        (2, 7),
        "network.encoder.embed_tokens",
        ("batch", "length"),
    ),
    Architecture(
        "lstm",
        lambda: networks.Recurrent(nn.LSTM),
        {"sequence": _random(12, 6)},
        ("embed", "between", "head.1"),
        (3,),
        axes=("batch", "length"),
    ),
    Architecture(
        "gru",
        lambda: networks.Recurrent(nn.GRU),
        {"sequence": _random(12, 6)},
        ("embed", "between", "head.1"),
        (3,),
    ),
    Architecture("audio", networks.Audio, {"wave": _random(1, 256)}, ("stem", "mixers.0", "filters.2"), (1,)),
    Architecture(
        "conv3d", networks.Volume, {"volume": _random(1, 8, 8, 8)}, ("first", "second", "pool"), (1,)
    ),
    Architecture(
        "diffusion",
        networks.Diffusion,
        {"image": _random(3, 8, 8), "step": torch.tensor([10, 500, 990])},
        ("norm1", "conv1", "qkv"),
        (1, 3, 4),
    ),
    Architecture(
        "mixture", networks.Mixture, {"tokens": _random(6, 8)}, ("embed", "experts.1.0", "norm"), (1,)
    ),
    Architecture(
        "mamba", networks.Selective, {"sequence": _random(10, 8)}, ("expand", "project", "out"), (1,)
    ),
    Architecture(
        "seq2seq",
        networks.Seq2Seq,
        {"source": _random(7, 8), "before": _random(5, 8)},
        ("encoder.layers.0", "memory", "decoder.layers.0.linear1"),
        (4, 1),
    ),
    Architecture(
        "superres",
        networks.SuperResolution,
        {"image": _random(1, 8, 8)},
        ("stem", "dense", "grow"),
        (0, 7, 8),
    ),
    Architecture(
        "spatial",
        networks.SpatialTransformer,
        {"image": _random(2, 12, 12)},
        ("locate", "conv", "dense"),
        (1,),
    ),
    Architecture(
        "dlrm",
        networks.Recommender,
        {"numbers": 2 * _random(5), "categories": _tokens()[:, :3] % 20},
        ("bottom.0", "bottom", "cross"),
        (1,),
    ),
)

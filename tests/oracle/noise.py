"""Where the file's numbers say nothing: the target cannot move, so that every attribution is 0, and what a library
recorded, 1e-4 and less, is its own rounding.

These nets end in a layer of equal weights before a softmax over its outputs: all logits move alike, so that the
probabilities stay. `test_noise.py` shows it for each of them in float64, and that nothing else in the file is so small.
"""

from __future__ import annotations


def _numbered(name: str, numbers: str) -> list[str]:
    return [f"captum/{name}#{k}" for k in numbers]


CASES = frozenset(
    [
        *_numbered("DeepLift/test_convnet_with_maxpool1d", "1"),
        *_numbered("DeepLift/test_convnet_with_maxpool1d_large_baselines", "0"),
        *_numbered("DeepLift/test_convnet_with_maxpool2d", "01"),
        *_numbered("DeepLift/test_convnet_with_maxpool2d_large_baselines", "1"),
        *_numbered("DeepLift/test_convnet_with_maxpool3d", "0"),
        *_numbered("DeepLift/test_convnet_with_maxpool3d_large_baselines", "01"),
        *_numbered("DeepLift/test_softmax_classification_zero_baseline", "0"),
        *_numbered("DeepLift/test_softmax_classification_batch_zero_baseline", "0"),
        *_numbered("DeepLiftShap/test_softmax_classification_multi_baseline", "1"),
        *_numbered("DeepLiftShap/test_softmax_classification_batch_multi_baseline", "1"),
        *_numbered("LayerConductance/test_matching_conv2_conductance", "01"),
        *_numbered("LayerConductance/test_matching_conv_multi_input_conductance", "01"),
        *_numbered("LayerConductance/test_matching_conv_with_baseline_conductance", "01"),
    ]
)

_LIFT, _CONDUCTANCE = "DeepLift==IntegratedGradients", "LayerConductance==LayerConductance"
EQUIVALENCES = frozenset(
    x.replace("captum/", "captum/equivalence/")
    for x in [
        *_numbered(f"{_LIFT}/test_convnet_with_maxpool1d_large_baselines", "0"),
        *_numbered(f"{_LIFT}/test_convnet_with_maxpool2d", "0"),
        *_numbered(f"{_LIFT}/test_convnet_with_maxpool2d_large_baselines", "01"),
        *_numbered(f"{_LIFT}/test_convnet_with_maxpool3d", "1"),
        *_numbered(f"{_LIFT}/test_convnet_with_maxpool3d_large_baselines", "01"),
        *_numbered(f"{_LIFT}/test_softmax_classification_zero_baseline", "0"),
        *_numbered("IntegratedGradients==NeuronIntegratedGradients/test_matching_output_gradient", "379"),
        *_numbered(f"{_CONDUCTANCE}/test_matching_conv_multi_input_conductance", "02"),
        *_numbered(f"{_CONDUCTANCE}/test_matching_conv_with_baseline_conductance", "01"),
        *_numbered("Saliency==NeuronGradient/test_matching_output_gradient", "01356789"),
    ]
)

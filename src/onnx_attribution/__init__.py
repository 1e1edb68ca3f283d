"""Attribution for any ONNX model: Neuron Integrated Gradients, DeepLIFT and their relatives, as a service."""

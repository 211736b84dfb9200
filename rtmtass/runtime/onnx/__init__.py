"""The ONNX graph of a network, its export, and onnxruntime as a runtime."""

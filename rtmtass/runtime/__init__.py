"""Runtimes that run a trained network frame by frame: compiled, ONNX and torch."""

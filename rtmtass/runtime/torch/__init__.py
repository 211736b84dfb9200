"""Torch as a runtime: CPU, and CUDA with captured graphs."""

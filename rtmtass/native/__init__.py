"""Builds the native library: the same kernels and models, for programs without Python."""

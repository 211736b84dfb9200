"""Builds the native library and plugins: the kernels without Python."""

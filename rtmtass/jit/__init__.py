"""How numba compiles the kernels, and what the processor supports."""

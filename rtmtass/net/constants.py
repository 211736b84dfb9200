"""Constants of the network's arithmetic, shared by all runtimes; imports no torch, no numba."""

from __future__ import annotations

LEVEL_FLOOR = 1e-9
"""Power per bin below which a level counts as silence (about -115 dBFS)."""
LEVEL_TINY = 1e-20
"""Smallest sum of the level's weights; it keeps the level of silence at the floor."""
LEVEL_SQUARE_TINY = 1e-34
"""Smallest sum of weighted powers in float32 runtimes; it keeps the sum out of the denormals."""
COMPRESS_FLOOR = 1e-12
"""Added to a bin's power before its root, so that a phase exists at zero."""
CONSISTENCY_FLOOR = 1e-4
"""Fraction of the mixture's power added to each stem's when the residual is distributed."""
CONSISTENCY_TINY = 1e-20
"""Added to that, so that silence doesn't divide by zero."""
LOSS_FLOOR = 1e-8
"""Added to a bin's power over the mixture's, before the training loss compresses it."""
NORM_EPSILON = 1e-5
"""Added to a variance by batch norm."""
RMS_EPSILON = 1e-5
"""Added to a mean square by RMS norm."""
EXPANDER_TINY = 1e-12
"""Smallest sum of powers in the expander (below -150 dBFS): silence has a share of 1."""

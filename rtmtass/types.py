"""Types and constants that rooms at both ends of the house share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much."""


SAMPLE_RATE = 16000

"""Array aliases, callback types and constants shared across the package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Audio; full scale is 1.0."""

Floats = NDArray[np.float32]
"""Any other float32 array: weights, features, state."""

Doubles = NDArray[np.float64]

Longs = NDArray[np.int64]

Bytes = NDArray[np.uint8]

Spec = NDArray[np.complex64]
"""A complex spectrum."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the current step, the count done and the total."""

SAMPLE_RATE = 16000
"""Sample rate of the models and of training data, in Hz."""

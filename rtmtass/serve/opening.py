"""Opens a model for the service, and measures what a stream costs on this computer."""

from __future__ import annotations

import math
from collections.abc import Callable

from rtmtass.errors import UsageError
from rtmtass.runtime.compiled.runtime import CompiledRuntime
from rtmtass.separator import open_runtime
from rtmtass.serve.budget import measure
from rtmtass.serve.options import MOST_STREAMS, Options
from rtmtass.serve.protocol import MOST_CHANNELS
from rtmtass.serve.service import Served
from rtmtass.serve.slots import Slots
from rtmtass.weights import DEFAULT, open_model


def open_served(
    model: str = DEFAULT,
    precision: str = "auto",
    options: Options | None = None,
    on_compile: Callable[[], None] | None = None,
) -> Served:
    """Open a model for a `Service`.

    Args:
        model, precision, on_compile: as in `separator.load`.
        options: of the service; None for the defaults.

    Raises:
        ModelError: no such model, or its files were altered.
        UsageError: no such precision.
    """
    from rtmtass.jit.compiler import compile_once

    options = options or Options()
    opened = open_model(model)
    runtime = open_runtime(opened, "numba", "cpu", precision)
    if not isinstance(runtime, CompiledRuntime):
        raise UsageError("the service runs on the numba runtime only")
    with compile_once(on_compile):
        probe = Slots(opened.config, runtime, MOST_CHANNELS)
        fixed_s, channel_s = measure(probe)
    n = options.max_streams or MOST_STREAMS
    if options.max_streams is None and options.limit != math.inf:
        hop_s = probe.hop / probe.sample_rate
        n = max(MOST_CHANNELS, min(n, int(hop_s / channel_s)))
    return Served(
        slots=Slots(opened.config, runtime, n),
        model=opened.config.name,
        version=str(opened.about.get("version", "")),
        precision=runtime.precision,
        fixed_s=fixed_s,
        channel_s=channel_s,
    )

"""Arrays over memory that compiled code knows by its address, such as a file's bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj
from numpy.typing import NDArray

from rtmtass.types import Longs


def _array_at(number: Any, n_bytes: int) -> Any:
    """Make the function that returns an array of one number type at an address."""
    arrays: Any = arrayobj
    pack: Any = cgutils.pack_array
    view_type = types.Array(number, 1, "C")

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = arrays.make_array(view_type)(context, builder)
        arrays.populate_array(
            view,
            data=builder.inttoptr(args[0], ir.IntType(8 * n_bytes).as_pointer()),
            shape=pack(builder, [args[1]]),
            strides=pack(builder, [context.get_constant(types.intp, n_bytes)]),
            itemsize=context.get_constant(types.intp, n_bytes),
            meminfo=None,
        )
        return view._getvalue()

    def array_at(typing_context: Any, address: Any, count: Any) -> Any:
        return view_type(types.intp, types.intp), build

    return intrinsic(array_at)


longs_at = cast(Callable[[int, int], Longs], _array_at(types.int64, 8))
"""longs_at(address, n): n int64 there. For compiled code only; nothing is checked or kept."""
words_at = cast(Callable[[int, int], NDArray[np.uint32]], _array_at(types.uint32, 4))
"""As `longs_at`, for uint32."""
bytes_at = cast(Callable[[int, int], NDArray[np.uint8]], _array_at(types.uint8, 1))
"""As `longs_at`, for bytes."""

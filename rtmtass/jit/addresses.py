"""Arrays over memory that compiled code knows by its address: of a file, or allocated by C.

For compiled code only; nothing is checked, kept or counted. Addresses are int64 on every
processor, so that one signature fits pointers of 32 and 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj
from numpy.typing import NDArray

from rtmtass.types import Bytes, Doubles, Floats, Longs


def contiguous(context: Any, builder: Any, kind: Any, data: Any, shape: Sequence[Any]) -> Any:
    """Emit an array over memory that others own: C-contiguous, without a reference count.

    Args:
        context, builder: of numba and llvmlite.
        kind: numba's type of the array.
        data: pointer to the first element.
        shape: int64 values.
    """
    arrays: Any = arrayobj
    pack: Any = cgutils.pack_array
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [context.get_constant(types.intp, size)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    view = arrays.make_array(kind)(context, builder)
    arrays.populate_array(
        view,
        data=data,
        shape=pack(builder, shape),
        strides=pack(builder, strides),
        itemsize=context.get_constant(types.intp, size),
        meminfo=None,
    )
    return view._getvalue()


def _array_at(dtype: Any, n_dims: int) -> Any:
    """Make the intrinsic (address, shape ...) -> array."""
    kind = types.Array(dtype, n_dims, "C")

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = builder.inttoptr(args[0], context.get_data_type(dtype).as_pointer())
        return contiguous(context, builder, kind, data, args[1:])

    def one(typing_context: Any, address: Any, n: Any) -> Any:
        """Array of shape (n,)."""
        return kind(types.int64, types.int64), build

    def two(typing_context: Any, address: Any, n: Any, m: Any) -> Any:
        """Array of shape (n, m)."""
        return kind(types.int64, types.int64, types.int64), build

    def three(typing_context: Any, address: Any, n: Any, m: Any, k: Any) -> Any:
        """Array of shape (n, m, k)."""
        return kind(*[types.int64] * 4), build

    def four(typing_context: Any, address: Any, n: Any, m: Any, k: Any, j: Any) -> Any:
        """Array of shape (n, m, k, j)."""
        return kind(*[types.int64] * 5), build

    return intrinsic((one, two, three, four)[n_dims - 1])


floats = cast(Callable[[int, int], Floats], _array_at(types.float32, 1))
floats2 = cast(Callable[[int, int, int], Floats], _array_at(types.float32, 2))
floats3 = cast(Callable[[int, int, int, int], Floats], _array_at(types.float32, 3))
floats4 = cast(Callable[[int, int, int, int, int], Floats], _array_at(types.float32, 4))
doubles = cast(Callable[[int, int], Doubles], _array_at(types.float64, 1))
doubles2 = cast(Callable[[int, int, int], Doubles], _array_at(types.float64, 2))
doubles3 = cast(Callable[[int, int, int, int], Doubles], _array_at(types.float64, 3))
longs = cast(Callable[[int, int], Longs], _array_at(types.int64, 1))
longs2 = cast(Callable[[int, int, int], Longs], _array_at(types.int64, 2))
words_ = cast(Callable[[int, int], NDArray[np.uint32]], _array_at(types.uint32, 1))
bytes_ = cast(Callable[[int, int], Bytes], _array_at(types.uint8, 1))

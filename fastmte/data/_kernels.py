"""Numba kernel that reads the rows of a crop from a file, and looks at them."""

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_pread = types.ExternalFunction(
    "pread", types.intp(types.intc, types.uintp, types.uintp, types.int64)
)


@njit(cache=True, nogil=True)
def read_rows(  # type: ignore[no-untyped-def]
    descriptor: int,  # IN
    offset: int,  # IN  bytes before the first row
    stride: int,  # IN  bytes from one row to the next
    exponent: int,  # IN  the bits that NaN and infinity have all of
    rows: NDArray[np.uint32],  # OUT (M, F) or uint16, the bits of floats, rows without gaps
):
    """Return (whole rows that the file has, whether all their values are finite)."""
    n_rows, n_values = rows.shape
    n_bytes = n_values * rows.itemsize
    address = rows.ctypes.data
    is_bad = False
    for row in range(n_rows):
        done = 0
        while done < n_bytes:
            at = address + row * n_bytes + done
            got = _pread(descriptor, at, n_bytes - done, offset + row * stride + done)
            if got <= 0:
                return row, not is_bad
            done += got
        n_bad = 0
        for i in range(n_values):  # while the row is in the cache
            n_bad += (rows[row, i] & exponent) == exponent
        is_bad |= n_bad > 0
    return n_rows, not is_bad

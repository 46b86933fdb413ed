"""What the allocator holds but nobody uses, back to the system.

The tensors of a bank that stay lie between larger ones that go, so the free memory around them is not given back by
itself: with ten objects some hundred megabytes after fifty frames.
"""

import ctypes
from collections.abc import Callable
from functools import cache

TRIM_EVERY = 12  # tracked frames; a trim takes some 15 ms with one object, 60 with ten


def trim_heap() -> None:
    """Gives free memory back where the C library can (glibc)."""
    _trim()(0)


@cache
def _trim() -> Callable[[int], int]:
    own_process = ctypes.CDLL(None)
    trim: Callable[[int], int] = getattr(own_process, "malloc_trim", lambda kept: 0)
    return trim

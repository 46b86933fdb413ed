"""The memory that tensors leave: what the next frame needs is kept, what nobody uses goes back to the system.

Left alone, glibc returns the memory of every large tensor to the kernel and pays for fresh pages on the next one.
Keeping it makes a convolutional network on a CPU 1.5 times as fast, at the price of at most half a gigabyte of idle
memory.

The tensors of a bank that stay lie between larger ones that go, so the free memory around them is not given back by
itself: with ten objects some hundred megabytes after fifty frames.
"""

import ctypes
from collections.abc import Callable, Mapping
from functools import cache

TRIM_EVERY = 12  # tracked frames; a trim takes some 15 ms with one object, 60 with ten

# The parameters of mallopt in malloc.h, what the environment calls them, and the bytes they are set to.
_KEPT = ((-3, "MALLOC_MMAP_THRESHOLD_", 1 << 30), (-1, "MALLOC_TRIM_THRESHOLD_", 1 << 29))


def keep_freed_memory(environment: Mapping[str, str]) -> None:
    """Has the C library (glibc) keep what large tensors leave, as far as the environment does not say otherwise."""
    for parameter, name, threshold in _KEPT:
        if name not in environment:
            _of_libc("mallopt")(parameter, threshold)


def trim_heap() -> None:
    """Gives free memory back where the C library can (glibc)."""
    _of_libc("malloc_trim")(0)


@cache
def _of_libc(name: str) -> Callable[..., int]:
    function: Callable[..., int] = getattr(ctypes.CDLL(None), name, lambda *arguments: 0)
    return function

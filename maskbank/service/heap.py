"""The memory that tensors leave: what the next frame needs is kept, what nobody uses goes back to the system.

Left alone, glibc returns the memory of every large tensor to the kernel and pays for fresh pages on the next one.
Keeping it made convolutions 1.5 times as fast on a CPU with AVX2 only (120 -> 82 ms), and saves a few hundredths of the
time on one with AMX, at the price of at most half a gigabyte of idle memory.

The tensors of a bank that stay lie between larger ones that go, so the free memory around them is not given back by
itself: with ten objects some hundred megabytes after fifty frames.
"""

import ctypes
from collections.abc import Callable, Mapping
from functools import cache

TRIM_EVERY = 12  # tracked frames; a trim takes some 15 ms with one object, 60 with ten

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # of malloc.h
MMAP_THRESHOLDS = (1 << 30, 1 << 25)  # older versions of glibc take no more than the second
TRIM_THRESHOLD = 1 << 29


def keep_freed_memory(environment: Mapping[str, str]) -> None:
    """Has the C library (glibc) keep what large tensors leave, unless the environment sets its thresholds."""
    if {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & environment.keys():
        return
    set_option = _of_libc("mallopt")
    # The second alone would make it worse: it ends that the first one adapts to what is asked for.
    if any(set_option(M_MMAP_THRESHOLD, threshold) for threshold in MMAP_THRESHOLDS):
        set_option(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def trim_heap() -> None:
    """Gives free memory back where the C library can (glibc)."""
    _of_libc("malloc_trim")(0)


@cache
def _of_libc(name: str) -> Callable[..., int]:
    function: Callable[..., int] = getattr(ctypes.CDLL(None), name, lambda *arguments: 0)
    return function

"""What the C library does with memory that is freed: a server asks for the same sizes again with the next call."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["keep_freed"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the numbers of glibc's malloc.h
KEPT = 32 << 20
OF_ITS_OWN = 8 << 20


def keep_freed() -> bool:
    """Keeps some MiB for the next call: new pages for each array cost more than it takes to fill them.

    For the whole process; False where the C library is not glibc. Larger arrays go back to the system at once.
    """
    with suppress(OSError, AttributeError):
        option = ctypes.CDLL(None).mallopt
        return bool(option(TRIM_THRESHOLD, KEPT) and option(MMAP_THRESHOLD, OF_ITS_OWN))
    return False

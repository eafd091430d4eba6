"""The C library's allocator, set for programs that compute on the CPU."""

import ctypes
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Whether glibc now keeps what is freed, for the whole process.

    A step's large results come from fresh pages of the operating system otherwise, and each page
    faults when it is first written, in every step: a quarter of a character LSTM's time.
    """
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        M_MMAP_MAX: 0,
        M_TRIM_THRESHOLD: 2**31 - 1,
        M_TOP_PAD: 64 * 2**20,
        M_ARENA_MAX: 1,
    }
    return all([mallopt(option, value) for option, value in settings.items()])


def cpu_only(platforms: str | None) -> bool:
    """Whether JAX will compute on the CPU, by its setting `jax_platforms` and what is installed.

    JAX itself would claim the accelerator to answer, which a main that only starts others must not.
    """
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not entry_points(group="jax_plugins") and find_spec("libtpu") is None

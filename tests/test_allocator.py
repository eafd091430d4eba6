"""The mains' allocator setting, seen from the operating system."""

import subprocess
import sys

import pytest

from experiments import allocator

# Allocates and frees 64 MiB again and again, and counts the page faults after the first time.
COUNT = """
import ctypes, resource
from experiments.allocator import keep_freed_memory
assert not KEEP or keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def touch():
    block = libc.malloc(ctypes.c_size_t(64 << 20))
    ctypes.memset(block, 1, 64 << 20)
    libc.free(ctypes.c_void_p(block))

touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_not_faulted_in_again():
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", COUNT.replace("KEEP", keep)]))
        for keep in ("True", "False")
    )
    assert kept < 100 < given_back  # at least 5 x 32 pages of 2 MiB, 5 x 16,384 of 4 KiB


@pytest.mark.parametrize("platforms, cpu", [("cpu", True), ("cpu,cuda", True), ("cuda,cpu", False)])
def test_the_platform_asked_for_decides(platforms, cpu):
    assert allocator.cpu_only(platforms) is cpu


@pytest.mark.parametrize("plugins, cpu", [([], True), (["cuda13"], False)])
def test_else_the_installed_plugins_decide(monkeypatch, plugins, cpu):
    monkeypatch.setattr(allocator, "entry_points", lambda group: plugins)
    monkeypatch.setattr(allocator, "find_spec", lambda name: None)
    assert allocator.cpu_only(None) is cpu

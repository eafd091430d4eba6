"""Running the mains as a user does, in processes that can be killed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def environment(**extra):
    """As outside the tests: one device, no flags of the test session; a cache shared by runs."""
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    return {**clean, "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache/jax"), **extra}


def start(main, *arguments, **extra):
    """Starts `python -m experiments.main` with its output captured."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{main}", *map(str, arguments)],
        cwd=ROOT,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(main, *arguments, timeout=300, **extra):
    """The finished process, with `stdout`, `stderr` and `returncode`."""
    process = start(main, *arguments, **extra)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)

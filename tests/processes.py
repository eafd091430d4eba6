"""Running the mains as a user does, in processes that can be killed."""

import functools
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Compilation is most of what tests do. The second flag is of one jaxlib each (0.10 knows what 0.12
# withdrew), and a jaxlib that does not know a flag ends the process.
QUICK_COMPILATION = "--xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    QUICK_COMPILATION += " --xla_cpu_use_fusion_emitters=false"  # a third of the time
elif version("jaxlib").startswith("0.12."):
    QUICK_COMPILATION += " --xla_cpu_opt_preset=fast_compile"  # nine tenths


def environment(**extra):
    """As outside the tests: one device, quickly compiled; a cache shared by runs."""
    own = {
        "XLA_FLAGS": QUICK_COMPILATION,
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache/jax"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    }
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, **own, **extra}


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


def run_forked(commands):
    """As `run` for many `(main, arguments)`, importing everything once a process of tests."""
    server = _forking()
    print(json.dumps(commands), file=server.stdin, flush=True)
    answer = server.stdout.readline()
    assert answer, "tests.forked has ended; its error is on stderr"
    return [
        subprocess.CompletedProcess(command, **found)
        for found, command in zip(json.loads(answer), commands)
    ]


@functools.cache
def _forking():
    """It ends with this process, whose end closes its input."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

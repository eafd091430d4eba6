"""Mains in forks of a process that has done the imports: what a fault campaign runs and kills.

JAX is imported before a fork, but starts no thread until a fork uses it.
"""

import dataclasses
import hashlib
import json
import logging
import os
import random
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

import jax
import matplotlib.pyplot  # noqa: F401
import numpy as np
import sklearn.datasets  # noqa: F401
import tensorboardX.event_file_writer  # noqa: F401

import nn_lib.train  # noqa: F401
from experiments.launch import AFTER_A_FAILURE, environment, free_port
from nn_lib.train.checkpoint import Checkpoints

PATIENCE = 120  # seconds


@dataclasses.dataclass
class Forked:
    """The processes of one run; `log` gets what they write."""

    pids: list[int]
    log: Path
    statuses: dict[int, int] = dataclasses.field(default_factory=dict)

    def alive(self) -> bool:
        """Whether all of them still run."""
        for pid in self.pids:
            if pid not in self.statuses:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.statuses[pid] = os.waitstatus_to_exitcode(status)
        return not self.statuses

    def signal(self, number: int, rng: random.Random) -> bool:
        """To one of them; whether it was there to get it."""
        if not self.alive():
            return False
        os.kill(rng.choice(self.pids), number)
        return True

    def wait(self) -> int | None:
        """The first status that is not 0, after all have ended; None where they never do.

        As the launcher: one failure ends the others, after a few seconds.
        """
        end = time.monotonic() + PATIENCE
        while len(self.statuses) < len(self.pids) and time.monotonic() < end:
            self.alive()
            if any(self.statuses.values()):
                end = min(end, time.monotonic() + AFTER_A_FAILURE)
            time.sleep(0.002)
        hangs = not self.statuses
        self.kill()
        failed = [status for status in self.statuses.values() if status]
        return None if hangs else (failed or [0])[0]

    def kill(self) -> None:
        for pid in self.pids:
            if pid not in self.statuses:
                os.kill(pid, signal.SIGKILL)
                self.statuses[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def start(main: str, arguments: list[str], processes: int, log: Path) -> Forked:
    """Starts `python -m experiments.MAIN` with its arguments, once or as several processes."""
    address = f"127.0.0.1:{free_port()}"
    log.write_text("")
    pids = []
    for index in range(processes):
        several = environment(address, processes, index, 0) if processes > 1 else {}
        pid = os.fork()
        if not pid:
            status = 1
            try:
                output = os.open(log, os.O_WRONLY | os.O_APPEND)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.environ.update({"JAX_PLATFORMS": "cpu", **several})
                jax.config.update("jax_disable_most_optimizations", True)  # to compile sooner
                status = run_main(main, arguments)
            finally:
                os._exit(status)  # nothing of the parent's is to be cleaned up here
        pids.append(pid)
    return Forked(pids, log)


def digest(workdir: Path) -> dict[str, str]:
    """What must not depend on faults: sums of the final checkpoint, its note, and the files.

    In a fork, since this process must not use JAX.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        try:
            found = _digest(workdir)
        except BaseException as error:
            found = {"unreadable": repr(error)}
        with os.fdopen(writing, "w") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def _digest(workdir: Path) -> dict[str, str]:
    logging.disable()
    summary = json.loads((workdir / "summary.json").read_text())
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    leaves, note = checkpoints.read(summary["steps"])
    found = {f"leaf {path}": np.asarray(leaf).tobytes() for path, leaf in leaves.items()}
    found["note"] = json.dumps(note, sort_keys=True).encode()
    found["metrics"] = (workdir / "metrics.jsonl").read_bytes()
    found["summary"] = (workdir / "summary.json").read_bytes()
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def run_main(main: str, arguments: list[str]) -> int:
    """`python -m experiments.MAIN` with its arguments in this process; its exit status."""
    sys.argv = [main, *arguments]
    code = 0
    try:
        runpy.run_module(f"experiments.{main}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()  # as at the end of an interpreter: all wait for one another
    sys.stdout.flush()
    sys.stderr.flush()
    return code

"""The kinds of faults of a campaign: each disturbs a run of some seconds at a random moment.

A kind is a function of the run, its work directory, the seconds that an undisturbed one takes and a
random generator. It returns the statuses with which the run may now end, or None where it was over
before anything could be done to it.
"""

import os
import random
import resource
import signal
import time
from collections.abc import Collection
from pathlib import Path

from experiments.forks import PATIENCE, Forked

# How a run may end that cannot go on, by its status: what docs/reliability.md says.
DOCUMENTED = {2: "none of the checkpoints in .* is intact", 74: "cannot (save|write) "}
ANY = range(-64, 256)
# How a process ends whose peer has ended: with a line of its own, by JAX, or killed with the job.
LEFT_ALONE = (75, -signal.SIGABRT, -signal.SIGKILL)
STEPS = 120  # of a run


def kill(run: Forked, workdir: Path, duration: float, rng: random.Random) -> Collection[int] | None:
    """SIGKILL to one of the processes at any moment."""
    there = _sleep_or_end(run, rng.uniform(0.1, 1) * duration) and run.signal(signal.SIGKILL, rng)
    return ANY if there else None


def kill_in_a_save(
    run: Forked, workdir: Path, duration: float, rng: random.Random
) -> Collection[int] | None:
    """SIGKILL while a checkpoint is written, or a moment later."""
    saves = rng.randint(1, 12)
    seen: set[str] = set()
    end = time.monotonic() + PATIENCE
    while run.alive() and time.monotonic() < end:
        seen |= {p.name for p in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")}
        if len(seen) >= saves:
            time.sleep(rng.choice([0, 0, rng.uniform(0, 0.02)]))
            return ANY if run.signal(signal.SIGKILL, rng) else None
        time.sleep(0.0005)
    return None


def terminate(
    run: Forked, workdir: Path, duration: float, rng: random.Random
) -> Collection[int] | None:
    """SIGTERM to one of the processes at any moment.

    It may just end where there is nothing to save: before its first steps and after its last.
    """
    there = _sleep_or_end(run, rng.uniform(0.1, 1) * duration)
    early = not _whole(workdir)
    if not (there and run.signal(signal.SIGTERM, rng)):
        return None
    late = any(int(checkpoint.name) == STEPS for checkpoint in _whole(workdir))
    return (0, 143, -signal.SIGTERM) if early or late else (0, 143)


def no_space(
    run: Forked, workdir: Path, duration: float, rng: random.Random
) -> Collection[int] | None:
    """From some moment on no file of one process, or of all, may grow beyond some size.

    In which its last words find room.
    """
    if not _sleep_or_end(run, rng.uniform(0.1, 1) * duration):
        return None
    limit = int(10 ** rng.uniform(3.5, 4.7))
    for pid in rng.choice([run.pids, [rng.choice(run.pids)]]):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return (0, 74)


def flip(run: Forked, workdir: Path, duration: float, rng: random.Random) -> Collection[int] | None:
    """A killed run, and then a flipped bit in one file of its checkpoints."""
    file = _some_file(run, workdir, duration, rng)
    if file is None:
        return None
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return ANY


def truncate(
    run: Forked, workdir: Path, duration: float, rng: random.Random
) -> Collection[int] | None:
    """A killed run, and then one file of its checkpoints cut short."""
    file = _some_file(run, workdir, duration, rng)
    if file is None:
        return None
    os.truncate(file, rng.randrange(file.stat().st_size))
    return ANY


KINDS = {
    "kill": kill,
    "kill in a save": kill_in_a_save,
    "SIGTERM": terminate,
    "no space": no_space,
    "bit flip": flip,
    "truncation": truncate,
}


def _sleep_or_end(run: Forked, seconds: float) -> bool:
    """Whether the run still goes on after that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.alive():
        time.sleep(0.002)
    return run.alive()


def _whole(workdir: Path) -> list[Path]:
    return [p for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]


def _some_file(run: Forked, workdir: Path, duration: float, rng: random.Random) -> Path | None:
    """A file, not empty, of a whole checkpoint of the run, killed before."""
    while run.alive() and not _whole(workdir):
        time.sleep(0.002)
    if not kill(run, workdir, duration, rng):
        return None
    run.wait()
    files = [f for p in _whole(workdir) for f in p.rglob("*") if f.is_file() and f.stat().st_size]
    return rng.choice(sorted(files))

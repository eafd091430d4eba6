"""The limits that control groups (version 2) set to this process: a container's, or a job's."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def limits(name: str) -> list[str]:
    """What a file such as `memory.max` says in the process's group and in those that it is in."""
    try:
        groups = [line[3:] for line in OWN.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        groups = []
    own = Path((groups or ["/"])[0].lstrip("/"))
    found = []
    for group in (own, *own.parents):
        try:
            found.append((ROOT / group / name).read_text())
        except OSError:  # the outermost has none, nor has a machine without control groups
            continue
    return found

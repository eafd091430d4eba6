"""The limits that control groups (version 2) set to this process: a container's, or a job's."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def own_group() -> str:
    """The path of the group that this process is in; '' is the outermost, or none."""
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        lines = []
    return next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")


def limits(name: str) -> list[tuple[str, str]]:
    """What a file such as `memory.max` says, by group: the own one, and those around it."""
    own = Path(own_group())
    found = []
    for group in (own, *own.parents):
        try:
            found.append((str(group), (ROOT / group / name).read_text()))
        except OSError:  # the outermost has none, nor has a machine without control groups
            continue
    return found

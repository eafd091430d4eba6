"""What benchmarks beside peers share: alternate timing, medians of processes, tables."""

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "flax", "torch", "keras", "dm-haiku", "equinox")


def alternate(sides: Mapping[str, Callable], train: bool, rounds: int) -> dict[str, float]:
    """Median seconds of each side over the rounds, in which all take turns.

    Each timed call follows an untimed one of the same side: torch's threads go on spinning for a
    while after a call, which would be counted against whoever comes next. Short programs are
    repeated within a round.
    """
    repeats = {}
    for name, side in sides.items():
        side(train)
        began = time.perf_counter()
        side(train)
        repeats[name] = max(1, int(0.02 / (time.perf_counter() - began)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            side(train)
            began = time.perf_counter()
            for _ in range(repeats[name]):
                side(train)
            times[name].append((time.perf_counter() - began) / repeats[name])
    return {name: statistics.median(found) for name, found in times.items()}


def in_processes(module: str, count: int, show: Callable[[dict], str | None]) -> list[dict]:
    """The same command by several processes, one after the other; medians of times and ratios.

    Args:
      module: what to run, with this process's flags; it writes one CSV to `--folder`.
      show: a line for a row of medians, or None.
    """
    tables = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            own = [*sys.argv[1:], "--processes=1", f"--folder={folder}"]
            subprocess.run([sys.executable, "-m", module, *own], check=True)
            (written,) = Path(folder).glob("*.csv")
            with open(written, newline="") as file:
                tables.append(list(csv.DictReader(file)))
    rows = []
    for same in zip(*tables):
        numbers = [
            name for name in same[0] if name.endswith(("_s", "_ratio", "_tflops")) and same[0][name]
        ]
        medians = {name: statistics.median(float(row[name]) for row in same) for name in numbers}
        rows.append(same[0] | medians)
        line = show(rows[-1])
        if line:
            print(f"median  {line}", flush=True)
    return rows


def write(file: Path, rows: list[dict]) -> None:
    """The rows as CSV, a folder made where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as handle:
        table = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def versions() -> str:
    """Of the packages that take part and are installed."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)

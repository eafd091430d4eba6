"""Our recurrent layers beside those of torch, Flax, Keras, Haiku and Equinox.

python -m experiments.benchmarks.recurrent [--cells=lstm,gru] [--rounds=15] [--processes=3]

All sides run alternately in one process, each timed to the end of its last result; a time is the
median over the rounds, a ratio the peer's median over ours: above 1, ours is faster. Of several
processes the median is taken again. Forward and backward returns the gradients of weights, inputs
and initial state under random cotangents. Writes CSV and a chart to docs/benchmarks/.

--devices=2 makes the CPU two devices and shards our batch over them; the peers stay on one.
"""

import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags

from experiments.allocator import keep_freed_memory
from experiments.benchmarks import recurrent_peers as peers

SHAPES = [
    (1, 25, 65, 100),
    (16, 40, 1, 64),
    (32, 128, 256, 256),
    (50, 50, 128, 512),
    (64, 100, 512, 512),
]
CELLS = flags.DEFINE_list("cells", ["lstm", "gru", "vanilla"], "Which cells.")
ONLY = flags.DEFINE_list(
    "peers", list(peers.PEERS), "Which peers; those not installed are skipped."
)
ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds of every side.", lower_bound=3)
LARGEST = flags.DEFINE_integer("shapes", len(SHAPES), "How many of the shapes.", lower_bound=1)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of everything.")
FOLDER = flags.DEFINE_string("folder", "docs/benchmarks", "Where the table and chart go.")
DEVICES = flags.DEFINE_integer("devices", 1, "CPU devices that our batch is sharded over.")
PROCESSES = flags.DEFINE_integer("processes", 1, "Whose median is taken.", lower_bound=1)
TUNE = flags.DEFINE_bool("tune_malloc", True, "Keep freed memory, for all sides (glibc).")


def main(argv: list[str]) -> None:
    if DEVICES.value > 1:  # before JAX starts
        count = f"--xla_force_host_platform_device_count={DEVICES.value}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    rows = in_processes() if PROCESSES.value > 1 else measure()
    folder = Path(FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    kind = jax.devices()[0].device_kind
    devices = f"_{DEVICES.value}_devices" if DEVICES.value > 1 else ""
    stem = f"recurrent_{kind.replace(' ', '_').lower()}{devices}_{DTYPE.value}"
    with open(folder / f"{stem}.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    draw(folder / f"{stem}.png", rows)
    print(f"{DEVICES.value} x {kind}, {platform.processor() or platform.machine()}, {versions()}")
    print(f"written  {folder / stem}.csv, .png")


def in_processes() -> list[dict]:
    """The same by several processes, one after the other; medians of their times and ratios."""
    tables = []
    for _ in range(PROCESSES.value):
        with tempfile.TemporaryDirectory() as folder:
            own = [*sys.argv[1:], "--processes=1", f"--folder={folder}"]
            module = "experiments.benchmarks.recurrent"
            subprocess.run([sys.executable, "-m", module, *own], check=True)
            (written,) = Path(folder).glob("*.csv")
            with open(written, newline="") as file:
                tables.append(list(csv.DictReader(file)))
    rows = []
    for same in zip(*tables):
        numbers = [name for name in same[0] if name.endswith(("_s", "_ratio"))]
        medians = {name: statistics.median(float(row[name]) for row in same) for name in numbers}
        rows.append(same[0] | medians)
        if same[0]["side"] != "ours":
            print(f"median  {line(rows[-1])}", flush=True)
    return rows


def line(row: dict) -> str:
    shape = f"{row['cell']:8} {row['shape']:16} {row['side']:10} "
    if row["side"] == "ours":
        return shape + f"forward+backward {1e3 * row['train_s']:.3f} ms"
    return shape + f"forward {row['forward_ratio']:.2f}  forward+backward {row['train_ratio']:.2f}"


def measure() -> list[dict]:
    """The rows of one process."""
    if TUNE.value:
        keep_freed_memory()
    absent = [peer for peer in ONLY.value if not peers.installed(peer)]
    print(f"not installed, skipped: {', '.join(absent) or 'none'}", flush=True)
    rows = []
    for cell in CELLS.value:
        for shape in SHAPES[: LARGEST.value]:
            found = compare(cell, shape, [p for p in ONLY.value if p not in absent])
            rows += found
            print("\n".join(map(line, found)), flush=True)
    return rows


def compare(cell: str, shape, names: list[str]) -> list[dict]:
    """A row per side: medians in seconds, and the peer's over ours."""
    values = peers.draw(shape, jax.numpy.dtype(DTYPE.value))
    sides: dict[str, Callable] = {}
    compile_seconds = {}
    for name, build in {"ours": peers.ours, **{n: peers.PEERS[n] for n in names}}.items():
        began = time.perf_counter()
        try:
            sides[name] = build(cell, shape, values)
        except ImportError as error:
            print(f"{cell}: {name} is left out: {error}")
            continue
        compile_seconds[name] = time.perf_counter() - began
    medians = {train: alternate(sides, train) for train in (False, True)}
    rows = []
    for name, side in sides.items():
        memory = side.temporary_bytes(True) if isinstance(side, peers.Program) else ""
        rows.append(
            {
                "cell": cell,
                "shape": "x".join(map(str, shape)),
                "side": name,
                "forward_s": medians[False][name],
                "train_s": medians[True][name],
                "forward_ratio": medians[False][name] / medians[False]["ours"],
                "train_ratio": medians[True][name] / medians[True]["ours"],
                "build_and_compile_s": compile_seconds[name],
                "temporary_bytes": memory,
            }
        )
    return rows


def alternate(sides: dict[str, Callable], train: bool) -> dict[str, float]:
    """Median seconds of each side; short programs are repeated within a round."""
    repeats = {}
    for name, side in sides.items():
        side(train)
        began = time.perf_counter()
        side(train)
        repeats[name] = max(1, int(0.02 / (time.perf_counter() - began)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS.value):
        for name, side in sides.items():
            began = time.perf_counter()
            for _ in range(repeats[name]):
                side(train)
            times[name].append((time.perf_counter() - began) / repeats[name])
    return {name: statistics.median(found) for name, found in times.items()}


def draw(file: Path, rows: list[dict]) -> None:
    """Bars of the ratios of forward and backward, a panel per cell."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no chart")
        return
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    names = list(dict.fromkeys(row["side"] for row in rows if row["side"] != "ours"))
    figure = Figure(figsize=(5.5 * len(cells), 4.2), layout="constrained")
    for index, cell in enumerate(cells):
        axis = figure.add_subplot(1, len(cells), index + 1)
        own = [row for row in rows if row["cell"] == cell]
        shapes = list(dict.fromkeys(row["shape"] for row in own))
        for place, name in enumerate(names):
            ratios = {row["shape"]: row["train_ratio"] for row in own if row["side"] == name}
            xs = [i + (place - len(names) / 2) * 0.8 / len(names) for i in range(len(shapes))]
            axis.bar(xs, [ratios.get(s, 0) for s in shapes], 0.8 / len(names), label=name)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(shapes)), shapes, rotation=20, size=8)
        axis.set(title=cell, ylabel="peer's time / ours, forward+backward")
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def versions() -> str:
    from importlib import metadata

    found = []
    for package in ("jax", "flax", "torch", "keras", "dm-haiku", "equinox"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    app.run(main)

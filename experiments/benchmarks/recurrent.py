"""Our recurrent layers beside those of torch, Flax, Keras, Haiku and Equinox.

python -m experiments.benchmarks.recurrent [--cells=lstm,gru] [--rounds=15] [--processes=3]

All sides run alternately in one process, each timed to the end of its last result and after an
untimed call of its own; a time is the median over the rounds, a ratio the peer's median over ours:
above 1, ours is faster. Of several processes the median is taken again. Forward and backward
returns the gradients of weights, inputs and initial state under random cotangents. Writes CSV and a
chart to docs/benchmarks/.

--devices=2 makes the CPU two devices and shards our batch over them; the peers stay on one.
"""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags

from experiments.allocator import keep_freed_memory
from experiments.benchmarks import compare
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
    if PROCESSES.value > 1:
        rows = compare.in_processes("experiments.benchmarks.recurrent", PROCESSES.value, line)
    else:
        rows = measure()
    folder = Path(FOLDER.value)
    kind = jax.devices()[0].device_kind
    devices = f"_{DEVICES.value}_devices" if DEVICES.value > 1 else ""
    stem = f"recurrent_{kind.replace(' ', '_').lower()}{devices}_{DTYPE.value}"
    compare.write(folder / f"{stem}.csv", rows)
    draw(folder / f"{stem}.png", rows)
    print(
        f"{DEVICES.value} x {kind}, {platform.processor() or platform.machine()}, "
        f"{compare.versions()}"
    )
    print(f"written  {folder / stem}.csv, .png")


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
            found = side_by_side(cell, shape, [p for p in ONLY.value if p not in absent])
            rows += found
            print("\n".join(map(line, found)), flush=True)
    return rows


def side_by_side(cell: str, shape, names: list[str]) -> list[dict]:
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
    medians = {train: compare.alternate(sides, train, ROUNDS.value) for train in (False, True)}
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


if __name__ == "__main__":
    app.run(main)

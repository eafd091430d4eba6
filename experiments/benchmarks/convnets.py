"""Our convnets, layer by layer and whole, beside torch, stock Flax and Keras on JAX.

python -m experiments.benchmarks.convnets [--what=layers,resnet50] [--processes=3] [--rounds=15]

All sides run alternately in one process, each timed to the end of its last result and after an
untimed call of its own; a time is the median over the rounds, a ratio the peer's median over ours:
above 1, ours is faster. Of several processes the median is taken again. A layer's backward gives
the gradients of inputs and weights under a random cotangent; a network's step is forward, backward
and momentum's update. Writes CSV and a chart to docs/benchmarks/.

On a GPU, --dtype=bfloat16 --batch=128 and what the device can do, --roof_tflops, give the share of
it that is reached.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments.allocator import keep_freed_memory
from experiments.benchmarks import compare, convnets_layers, convnets_networks
from nn_lib.analysis import summarize

WHAT = flags.DEFINE_list(
    "what", ["layers", *convnets_networks.BATCHES], "Layers, and which networks."
)
ONLY = flags.DEFINE_list("peers", list(convnets_networks.PEERS), "Which peers.")
MATCH = flags.DEFINE_string("match", "", "Only layers whose name holds this.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds of every side.", lower_bound=3)
PROCESSES = flags.DEFINE_integer("processes", 1, "Whose median is taken.", lower_bound=1)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Networks compute in it.")
BATCH = flags.DEFINE_integer("batch", 0, "Of networks; 0 is the usual one.", lower_bound=0)
ROOF = flags.DEFINE_float("roof_tflops", 0.0, "What the device can do, of its data sheet.")
FOLDER = flags.DEFINE_string("folder", "docs/benchmarks", "Where the table and chart go.")
TUNE = flags.DEFINE_bool("tune_malloc", True, "Keep freed memory, for all sides (glibc).")


def main(argv: list[str]) -> None:
    if PROCESSES.value > 1:
        rows = compare.in_processes("experiments.benchmarks.convnets", PROCESSES.value, line)
    else:
        rows = measure()
    kind = jax.devices()[0].device_kind
    stem = f"convnets_{kind.replace(' ', '_').lower()}_{DTYPE.value}"
    folder = Path(FOLDER.value)
    compare.write(folder / f"{stem}.csv", rows)
    draw(folder / f"{stem}.png", rows)
    print(f"{kind}, {compare.versions()}")
    print(f"written  {folder / stem}.csv, .png")


def measure() -> list[dict]:
    """The rows of one process."""
    if TUNE.value:
        keep_freed_memory()
    rows = []
    for what in WHAT.value:
        if what == "layers" and (DTYPE.value != "float32" or jax.default_backend() != "cpu"):
            print("layers are compared in float32 on a CPU only: left out", flush=True)
            continue
        if what == "layers":
            for layer in convnets_layers.LAYERS:
                if MATCH.value in layer.name:
                    builds = {"ours": convnets_layers.ours, **convnets_layers.PEERS}
                    rows += side_by_side(layer.name, builds, (layer,))
            continue
        batch = BATCH.value or convnets_networks.BATCHES[what]
        arguments = (what, *convnets_networks.batch(what, batch), jnp.dtype(DTYPE.value))
        builds = {"ours": convnets_networks.ours, **convnets_networks.PEERS}
        rows += side_by_side(f"{what} B{batch}", builds, arguments, operations(what, batch))
    return rows


def side_by_side(name: str, builds: dict, arguments, work: dict | None = None) -> list[dict]:
    """A row per side: medians in seconds, the peer's over ours, and TFLOP/s of a network."""
    sides: dict[str, Any] = {}
    for peer, build in builds.items():
        if peer != "ours" and peer not in ONLY.value:
            continue
        try:
            sides[peer] = build(*arguments)
        except ImportError as error:
            print(f"{name}: {peer} is left out: {error}", flush=True)
            continue
    medians = {train: compare.alternate(sides, train, ROUNDS.value) for train in (False, True)}
    rows = []
    for peer in sides:
        row: dict = {"name": name, "side": peer}
        for train, label in ((False, "forward"), (True, "train")):
            seconds = medians[train][peer]
            row[f"{label}_s"] = seconds
            row[f"{label}_ratio"] = seconds / medians[train]["ours"]
            row[f"{label}_tflops"] = work[train] / seconds / 1e12 if work else ""
        compiled: Any = getattr(sides[peer], "compiled", None)
        row["step_compile_s"] = getattr(sides[peer], "step_compile_s", "")
        row["temporary_bytes"] = ""
        if hasattr(compiled, "memory_analysis"):
            row["temporary_bytes"] = compiled.memory_analysis().temp_size_in_bytes
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict) -> str:
    """What is printed of a row."""
    text = f"{row['name']:32} {row['side']:15} "
    if row["side"] == "ours":
        text += f"{1e3 * float(row['forward_s']):9.2f} ms  train {1e3 * float(row['train_s']):9.2f}"
    else:
        text += f"{float(row['forward_ratio']):9.2f}     train {float(row['train_ratio']):9.2f}"
    if row["train_tflops"] != "":
        reached = float(row["train_tflops"])
        text += f"  {reached:.2f} TFLOP/s"
        text += f", {100 * reached / ROOF.value:.0f} % of the roof" if ROOF.value else ""
    if row["step_compile_s"] != "":
        text += f"  step compiled in {float(row['step_compile_s']):.1f} s"
    return text


def operations(network: str, batch: int) -> dict[bool, int]:
    """Floating-point operations of a training step and of inference: two for a multiply-add, and
    backward is twice forward."""
    size = convnets_networks.SIZES[network]
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    model = convnets_networks.model(network)
    return {
        train: (6 if train else 2) * summarize(model, images, train=train).macs
        for train in (True, False)
    }


def draw(file: Path, rows: list[dict]) -> None:
    """Bars of the ratios of training, a row for each layer or network."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no chart")
        return
    names = list(dict.fromkeys(row["name"] for row in rows))
    peers = list(dict.fromkeys(row["side"] for row in rows if row["side"] != "ours"))
    figure = Figure(figsize=(9, 1 + 0.42 * len(names)), layout="constrained")
    axis = figure.add_subplot()
    height = 0.8 / max(1, len(peers))
    for place, peer in enumerate(peers):
        ratios = {row["name"]: float(row["train_ratio"]) for row in rows if row["side"] == peer}
        ys = [names.index(name) + (place - (len(peers) - 1) / 2) * height for name in ratios]
        axis.barh(ys, list(ratios.values()), height, label=peer)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, size=8)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="peer's time / ours, forward and backward (network: a step)")
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    app.run(main)

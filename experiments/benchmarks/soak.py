"""A soak: does a long run stay as quick and as small as it was? Resident memory and time a step.

python -m experiments.benchmarks.soak [--minutes=30] [--workdir=runs/soak] [--picture=soak.png]

Trains a small LSTM on characters, with evaluations, checkpoints and logging as often as real runs
have in hours, and looks at the process every second. The first sixth is warm-up; of the rest the
last third is compared with the first: both must agree within 3 %. Memory is compared by medians;
steps by the quickest tenth of the means of a hundred, since other work on a machine, and its clock,
make minutes slow that the run is not to blame for, and what a run loses by itself it loses in all.
"""

import dataclasses
import json
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments import command_line
from nn_lib.data import DataConfig
from nn_lib.models import CharLM
from nn_lib.objectives import next_token
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import LSTMCell
from nn_lib.train import Experiment, fit

MINUTES = flags.DEFINE_float("minutes", 30, "How long it trains.", lower_bound=0.2)
SOAK_FOLDER = flags.DEFINE_string("workdir", "", "Where the run lives; '' is a temporary folder.")
PICTURE = flags.DEFINE_string("picture", "", "A PNG of both curves.")

WARM_UP = 1 / 6
WITHIN = 0.03


def experiment(steps: int) -> Experiment:
    """A step of some milliseconds on a CPU core."""
    return Experiment(
        model=CharLM(cell=LSTMCell(96), dropout=0.1),
        objective=next_token,
        data=DataConfig(name="python_docs", sequence_length=32),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, clip_norm=1.0),
        batch_size=32,
        num_steps=steps,
        eval_every=2000,
        checkpoint_every=500,
        log_every=100,
    )


@dataclasses.dataclass
class Curve:
    """One value a moment; `drift` is its last third over its first, after the warm-up."""

    seconds: np.ndarray
    values: np.ndarray
    quantile: float = 0.5  # by which they are compared

    @property
    def drift(self) -> float:
        return self.drift_at(self.quantile)

    def drift_at(self, quantile: float) -> float:
        began, end = self.seconds[0], self.seconds[-1]
        start = began + WARM_UP * (end - began)
        third = (end - start) / 3
        first = self.values[(self.seconds >= start) & (self.seconds < start + third)]
        last = self.values[self.seconds >= end - third]
        return float(np.quantile(last, quantile) / np.quantile(first, quantile) - 1)


def resident_mebibytes() -> float:
    """Of this process, as the kernel counts (Linux)."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def soak(workdir: Path, minutes: float) -> tuple[Curve, Curve]:
    """Trains for that long; (resident memory in MiB, milliseconds a step)."""
    memory: list[tuple[float, float]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1.0):
            memory.append((time.monotonic(), resident_mebibytes()))

    began = time.monotonic()
    fit(experiment(300), workdir / "first", quiet=True)  # how quick it is here
    lines = _lines(workdir / "first")
    seconds = float(np.median([line["step_time"] for line in lines]))
    left = 60 * minutes - (time.monotonic() - began)
    steps = max(int(left / seconds / 100) * 100, 600)
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    fit(experiment(steps), workdir / "soak")
    ended.set()
    watcher.join()
    lines = _lines(workdir / "soak")[1:]  # the first line holds the compilation
    times = np.cumsum([100 * line["step_time"] for line in lines])
    step_times = np.array([1e3 * line["step_time"] for line in lines])
    seen = np.array(memory)
    return Curve(seen[:, 0] - seen[0, 0], seen[:, 1]), Curve(times, step_times, 0.1)


def _lines(workdir: Path) -> list[dict]:
    found = map(json.loads, (workdir / "timings.jsonl").read_text().splitlines())
    return [line for line in found if line["event"] == "train"]


def draw(memory: Curve, steps: Curve, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    for axis, curve, title in zip(
        figure.subplots(2, 1, sharex=True),
        (memory, steps),
        ("resident memory, MiB", "time a step, ms (means of 100; drift of the quickest tenth)"),
    ):
        axis.plot(curve.seconds / 60, curve.values, linewidth=0.8)
        axis.axvspan(0, WARM_UP * curve.seconds[-1] / 60, alpha=0.1, label="warm-up")
        axis.set(title=f"{title}: {curve.drift:+.1%}", ylim=(0, 1.1 * curve.values.max()))
        axis.grid(alpha=0.3)
    axis.set(xlabel="minutes")
    figure.savefig(file, dpi=110)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        memory, steps = soak(Path(SOAK_FOLDER.value or temporary), MINUTES.value)
    if PICTURE.value:
        draw(memory, steps, Path(PICTURE.value))
    flat = [abs(curve.drift) <= WITHIN for curve in (memory, steps)]
    print(
        f"{memory.seconds[-1] / 60:.1f} minutes, {100 * len(steps.values):,} steps; the last third "
        f"against the first, after a warm-up of one sixth:\n"
        f"resident memory {np.median(memory.values):,.0f} MiB, {memory.drift:+.2%}\n"
        f"time a step {np.quantile(steps.values, 0.1):.2f} ms in the quickest tenth, "
        f"{steps.drift:+.2%}; median {np.median(steps.values):.2f} ms, "
        f"{steps.drift_at(0.5):+.2%}\n"
        f"{'flat' if all(flat) else 'NOT flat'} within {WITHIN:.0%}; {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}, {platform.machine()}, Python "
        f"{platform.python_version()}, jax {jax.__version__}"
    )
    sys.exit(not all(flat))


if __name__ == "__main__":
    command_line.run(main, required=())

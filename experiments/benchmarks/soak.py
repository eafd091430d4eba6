"""A soak: does a long run stay as quick and as small as it was? Resident memory and time a step.

python -m experiments.benchmarks.soak [--minutes=30] [--workdir=runs/soak] [--picture=soak.png]

Trains a small LSTM on characters for that long, with evaluations, checkpoints and logging as often
as real runs have in hours, and looks at the process every second. The first sixth is warm-up; of
the rest the last third is compared with the first, by medians: both must agree within 3 %. A
machine has slow minutes that the run is not to blame for, so after every 200 steps of the run a few
bare ones are taken, and what must be flat is the time of a step of the run over that of a bare one;
the drifts of both alone are printed beside it.
"""

import contextlib
import dataclasses
import os
import platform
import signal
import sys
import tempfile
import threading
import time
import unittest.mock
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command_line
from nn_lib.data import DataConfig
from nn_lib.models import CharLM
from nn_lib.objectives import next_token
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import LSTMCell
from nn_lib.train import Experiment, fit
from nn_lib.train.interrupt import Interrupted
from nn_lib.train.run import Run

MINUTES = flags.DEFINE_float("minutes", 30, "How long it trains.", lower_bound=0.2)
SOAK_FOLDER = flags.DEFINE_string("workdir", "", "Where the run lives; '' is a temporary folder.")
PICTURE = flags.DEFINE_string("picture", "", "A PNG of both curves.")

TURN, BARE = 200, 20  # steps of the run, and bare ones after them
WARM_UP = 1 / 6
WITHIN = 0.03
MORE = 1.5  # steps than by the pace of the first ones: time ends the run, not their number


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

    @property
    def drift(self) -> float:
        began, end = self.seconds[0], self.seconds[-1]
        start = began + WARM_UP * (end - began)
        third = (end - start) / 3
        first = self.values[(self.seconds >= start) & (self.seconds < start + third)]
        last = self.values[self.seconds >= end - third]
        return float(np.median(last) / np.median(first) - 1)


class InTurns:
    """A run's training step that also takes bare steps, in turns, on a state of their own."""

    def __init__(self, step: Any):
        self._step, self.lower = step, step.lower
        self._calls, self._state, self._report = 0, None, None
        self._began = 0.0
        self.moments: list[float] = []
        self.of_run: list[float] = []
        self.bare: list[float] = []

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
        if self._calls % TURN == 0:
            self._take_bare_steps(state, batch)
        self._calls += 1
        state, self._report = self._step(state, batch)
        return state, self._report

    def _take_bare_steps(self, state: Any, batch: Any) -> None:
        jax.block_until_ready(self._report)
        now = time.monotonic()
        if self._state is None:
            self._state = jax.tree.map(jnp.copy, state)
        for _ in range(BARE):
            self._state, report = self._step(self._state, batch)
        jax.block_until_ready(report)
        end = time.monotonic()
        if self._calls:
            self.moments.append(end)
            self.of_run.append((now - self._began) / TURN)
            self.bare.append((end - now) / BARE)
        self._began = end


def resident_mebibytes() -> float:
    """Of this process, as the kernel counts (Linux)."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def soak(workdir: Path, minutes: float) -> tuple[Curve, Curve, Curve, Curve]:
    """Trains for that long: resident MiB, a step over a bare one, and the seconds of each."""
    memory: list[tuple[float, float]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1.0):
            memory.append((time.monotonic(), resident_mebibytes()))

    first = _train(experiment(10 * TURN), workdir / "first")  # how quick it is here
    seconds = float(np.median(first.of_run) + np.median(first.bare) * BARE / TURN)
    enough = max(int(MORE * 60 * minutes / seconds), 10 * TURN)
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    steps = _train(experiment(enough), workdir / "soak", minutes)
    ended.set()
    watcher.join()
    seen = np.array(memory)
    moments = np.array(steps.moments) - seen[0, 0]
    of_run, bare = np.array(steps.of_run), np.array(steps.bare)
    return (
        Curve(seen[:, 0] - seen[0, 0], seen[:, 1]),
        Curve(moments, of_run / bare),
        Curve(moments, of_run),
        Curve(moments, bare),
    )


def _train(experiment: Experiment, workdir: Path, minutes: float = 0) -> InTurns:
    """Its step, after all of its steps or after so many minutes, by the signal of a preemption."""
    prepare, made = Run.prepare, []
    alarm = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    alarm.daemon = True

    def prepared(experiment: Experiment) -> Run:
        run = prepare(experiment)
        run.train_step = InTurns(run.train_step)
        made.append(run.train_step)
        if minutes:
            alarm.start()
        return run

    with unittest.mock.patch.object(Run, "prepare", prepared), contextlib.suppress(Interrupted):
        fit(experiment, workdir, quiet=not minutes)
        alarm.cancel()
    return made[0]


def draw(memory: Curve, steps: Curve, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    for axis, curve, title in zip(
        figure.subplots(2, 1, sharex=True),
        (memory, steps),
        ("resident memory, MiB", f"time of a step over that of a bare one (means of {TURN})"),
    ):
        axis.plot(curve.seconds / 60, curve.values, linewidth=0.8)
        axis.axvspan(0, WARM_UP * curve.seconds[-1] / 60, alpha=0.1, label="warm-up")
        axis.set(title=f"{title}: {curve.drift:+.1%}", ylim=(0, 1.1 * curve.values.max()))
        axis.grid(alpha=0.3)
    axis.set(xlabel="minutes")
    figure.savefig(file, dpi=110)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(SOAK_FOLDER.value or temporary)
        memory, steps, of_run, bare = soak(folder, MINUTES.value)
    if PICTURE.value:
        draw(memory, steps, Path(PICTURE.value))
    flat = [abs(curve.drift) <= WITHIN for curve in (memory, steps)]
    print(
        f"{memory.seconds[-1] / 60:.1f} minutes, {TURN * len(steps.values):,} steps; "
        f"the last third against the first, after a warm-up of one sixth:\n"
        f"resident memory {np.median(memory.values):,.0f} MiB, {memory.drift:+.2%}\n"
        f"a step {1e3 * np.median(of_run.values):.2f} ms, {np.median(steps.values):.3f} times "
        f"a bare one, {steps.drift:+.2%}; by the clock alone {of_run.drift:+.2%}, the bare one "
        f"{bare.drift:+.2%}\n"
        f"{'flat' if all(flat) else 'NOT flat'} within {WITHIN:.0%}; {jax.device_count()} x "
        f"{jax.devices()[0].device_kind}, {platform.machine()}, Python "
        f"{platform.python_version()}, jax {jax.__version__}"
    )
    sys.exit(not all(flat))


if __name__ == "__main__":
    command_line.run(main, required=())

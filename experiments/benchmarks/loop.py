"""What the training loop costs: steps a second of `fit` beside a bare jitted loop.

python -m experiments.benchmarks.loop [--rounds=15]

Both run the same step (about 1 ms) over the same batches, alternately in this process. `fit`'s rate
is the median over its log intervals, which leave out start-up, evaluation and checkpoints as its
`timings.jsonl` does; the bare loop calls the jitted step and nothing else.
"""

import dataclasses
import itertools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import jax
from absl import flags

from experiments import command_line
from nn_lib.data import DataConfig
from nn_lib.models import MLP
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.train import Experiment, fit
from nn_lib.train.run import Run

ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each side runs.", lower_bound=3)
STEPS = 1000


def experiment() -> Experiment:
    """A step of about 1 ms on one CPU core; logging as the configs do."""
    return Experiment(
        model=MLP(hidden=(256, 256)),
        objective=classify,
        data=DataConfig(name="mnist1d", validation_split="", train_split="train"),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3),
        batch_size=100,
        num_steps=STEPS,
        eval_every=0,
        checkpoint_every=0,
        log_every=100,
    )


def bare_rate(run: Run, batches: list) -> float:
    """Steps a second of nothing but the jitted step."""
    state = jax.tree.map(lambda leaf: leaf.copy(), run.initial_state)
    for batch in itertools.islice(itertools.cycle(batches), 100):
        state, _ = run.train_step(state, batch)
    jax.block_until_ready(state)
    began = time.perf_counter()
    for batch in itertools.islice(itertools.cycle(batches), STEPS):
        state, _ = run.train_step(state, batch)
    jax.block_until_ready(state)
    return STEPS / (time.perf_counter() - began)


def loop_rate(seed: int) -> float:
    """Steps a second of `fit`, the median of its log intervals after the first."""
    with tempfile.TemporaryDirectory() as workdir:
        fit(dataclasses.replace(experiment(), seed=seed), workdir, quiet=True)
        lines = (Path(workdir) / "timings.jsonl").read_text().splitlines()
    rates = [r["steps_per_second"] for r in map(json.loads, lines) if r["event"] == "train"]
    return statistics.median(rates[1:])


def main() -> None:
    run = Run.prepare(experiment())
    batches = [run.batches.at(step) for step in range(STEPS)]
    pairs = []
    for seed in range(ROUNDS.value):
        pairs.append((bare_rate(run, batches), loop_rate(seed)))
        bare, ours = pairs[-1]
        print(
            f"round {seed + 1}: bare {bare:,.0f}, fit {ours:,.0f} steps/s, ratio {ours / bare:.3f}"
        )
    bare, ours = (statistics.median(side) for side in zip(*pairs))
    ratio = statistics.median(ours / bare for bare, ours in pairs)
    print(
        f"median of {ROUNDS.value}: bare {bare:,.0f} steps/s ({1e3 / bare:.2f} ms), "
        f"fit {ours:,.0f}; fit / bare {ratio:.3f}\n"
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, {platform.machine()}, "
        f"Python {platform.python_version()}, jax {jax.__version__}"
    )


if __name__ == "__main__":
    command_line.run(main, required=())

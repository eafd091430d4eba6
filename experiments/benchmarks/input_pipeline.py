"""How fast the data comes, beside how fast the models take it: images a second.

python -m experiments.benchmarks.input_pipeline [--rows=lenet,resnet20] [--seconds=4] [--rounds=3]

Generated sets in the shapes of MNIST, CIFAR and ImageNet, read by the configs' own pipelines:
`decode`, from the files to arrays (once for MNIST and CIFAR, which stay in memory; ImageNet's
images are cut and resized in it, in every epoch); `batches`, what the loop reads; `augmented`,
those with the part that runs on the device, one after the other. `step` is the config's train step
on one batch again and again, `loop` the same step on the batches of the pipeline, alternately;
`data_wait` is the share of the loop in which the device has nothing to do before a batch comes, as
in `timings.jsonl`. Medians of the rounds. Writes CSV to docs/benchmarks/.
"""

import collections
import csv
import functools
import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from configs import cifar10, imagenet, mnist
from experiments.allocator import keep_freed_memory
from experiments.benchmarks import input_images
from nn_lib.data import DataSet, load
from nn_lib.data.batches import prefetch, training_batches
from nn_lib.train import Experiment
from nn_lib.train.run import Run
from nn_lib.train.training_log import STEPS_AHEAD

# row -> (set, config, batch size, workers that read)
ROWS: dict[str, tuple[str, Callable[[], Experiment], int, tuple[int, ...]]] = {
    "lenet": ("mnist", mnist.get_config, 128, (0,)),
    "resnet20": ("cifar", functools.partial(cifar10.get_config, "resnet20"), 128, (0,)),
    "resnet18": ("cifar", functools.partial(cifar10.get_config, "resnet18"), 32, (0,)),
    "resnet50": ("imagenet", imagenet.get_config, 8, (0, 1, 2)),
}
CHOSEN = flags.DEFINE_list("rows", list(ROWS), "Which rows.")
SECONDS = flags.DEFINE_float("seconds", 4.0, "Of each measurement.", lower_bound=0.1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Of each measurement.", lower_bound=1)
FOLDER = flags.DEFINE_string("folder", "docs/benchmarks", "Where the table goes.")


def main(argv: list[str]) -> None:
    keep_freed_memory()
    logging.set_verbosity(logging.WARNING)
    kind = jax.devices()[0].device_kind
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "grain", "pillow"))
    print(f"{kind}, {platform.processor() or platform.machine()}, {versions}", flush=True)
    table = Path(FOLDER.value) / f"input_pipeline_{kind.replace(' ', '_').lower()}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sizes = input_images.prepare(folder)
        for name in CHOSEN.value:
            rows = []
            for found in measure(name, folder):
                rows.append({"model": name, "file_bytes": sizes[ROWS[name][0]], **found})
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            write(table, name, rows)
    print(f"written  {table}")


def write(table: Path, model: str, rows: list[dict]) -> None:
    """Replaces a model's rows of the table; those of other models stay."""
    if table.exists():
        with open(table, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["model"] != model] + rows
    rows = sorted(rows, key=lambda row: list(ROWS).index(row["model"]))
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def measure(name: str, folder: str) -> Iterator[dict]:
    """The rows of a model: one for every number of workers."""
    data_set, config, batch_size, all_workers = ROWS[name]
    experiment = config()
    experiment.batch_size, experiment.optimizer.schedule = batch_size, "constant"
    data = experiment.data
    data.name, data.data_dir, data.workers = f"{input_images.NAME}/{data_set}", folder, 0
    data.train_split, data.validation_split = "train", ""
    began = time.perf_counter()
    count = len(load(data).split("train"))
    decode = count / (time.perf_counter() - began)

    run = Run.prepare(experiment)
    step = Step(run)
    augment = finished(jax.jit(functools.partial(as_the_model_sees_them, run)))
    steps: list[float] = []
    for workers in all_workers:
        data.workers = workers
        source = load(data)
        streamed = data.crop is not None
        larger = 64 if streamed else batch_size  # so that the rate is not that of small batches
        found: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(ROUNDS.value):
            for key, use in (("batches", unused), ("augmented", augment)):
                found[key].append(through(batches_of(source, larger), use)[0])
            if workers == all_workers[0]:  # the same for all
                steps.append(through(itertools.repeat(run.batches.at(0)), step)[0])
            rate, waited = through(batches_of(source, batch_size), step)
            found["loop"].append(rate)
            found["data_wait"].append(waited)
        medians = {key: statistics.median(values) for key, values in found.items()}
        yield {
            "set": data_set,
            "batch_size": batch_size,
            "workers": workers,
            "decode": round(medians["batches"] if streamed else decode, 1),
            "step": round(statistics.median(steps), 1),
            **{key: round(value, 4 if key == "data_wait" else 1) for key, value in medians.items()},
        }


class Step:
    """The train step of a run, called as `fit` does: a few steps ahead of the device."""

    def __init__(self, run: Run):
        self.run, self.state = run, run.initial_state
        self.in_flight: collections.deque[jax.Array] = collections.deque()

    def __call__(self, batch: dict) -> None:
        self.state, report = self.run.train_step(self.state, batch)
        self.in_flight.append(report["bad_steps"])
        if len(self.in_flight) > STEPS_AHEAD:
            self.in_flight.popleft().block_until_ready()

    def idle(self) -> bool:
        newest: Any = self.in_flight[-1] if self.in_flight else None
        return newest is None or newest.is_ready()

    def finish(self) -> None:
        jax.block_until_ready(self.state)


def as_the_model_sees_them(run: Run, batch: dict) -> jax.Array:
    """The inputs of a batch, prepared and augmented."""
    data = run.experiment.data
    batch = data.prepare_batch(batch)
    return (data.augment(jax.random.key(0), batch) if data.augment else batch)["inputs"]


def finished(function: Callable) -> Callable:
    return lambda batch: function(batch).block_until_ready()


def unused(batch: dict) -> None:
    pass


def batches_of(data: DataSet, batch_size: int) -> Iterator[dict]:
    return iter(prefetch(training_batches(data, batch_size, 0), 0, 10**6))


def through(batches: Iterator, use: Callable) -> tuple[float, float]:
    """Images a second, and the share of the time that an idle device waited for a batch."""
    use(next(batches))
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS.value / 4:  # what was read ahead is used up
        use(next(batches))
    finish, idle = getattr(use, "finish", lambda: None), getattr(use, "idle", lambda: True)
    finish()
    count, waited, began = 0, 0.0, time.perf_counter()
    while time.perf_counter() - began < SECONDS.value:
        asked = time.perf_counter()
        batch = next(batches)
        if idle():
            waited += time.perf_counter() - asked
        use(batch)
        count += len(batch["labels"])
    finish()
    elapsed = time.perf_counter() - began
    if hasattr(batches, "close"):
        batches.close()
    return count / elapsed, waited / elapsed


if __name__ == "__main__":
    app.run(main)

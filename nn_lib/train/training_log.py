"""The lines of training metrics, written one step late, so that no step waits for the disk."""

import contextlib
import time
from collections.abc import Iterator

import jax

from nn_lib import metrics
from nn_lib.train.run import Run
from nn_lib.train.writer import Progress, Writer


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that was not finite."""


class TrainingLog:
    """Writes the lines of training metrics one step late, so that no step waits for the disk."""

    def __init__(self, run: Run, writer: Writer, progress: Progress, start: int):
        self._run, self._writer, self._progress = run, writer, progress
        self._held: tuple[int, dict] | None = None
        self._step, self._clock = start, time.monotonic()

    def hold(self, step: int, report: dict) -> None:
        """Keeps the report of a step to be written."""
        self._held = (step, report)

    def write(self) -> None:
        """Writes what is held, if anything; waits for its step to be done."""
        if self._held is None:
            return
        step, report = self._held
        self._held = None
        report = jax.device_get(report)
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._clock, 1e-9)
        self._step, self._clock = step, now
        values = metrics.means(dict(zip(self._run.metric_names, report["metrics"])))
        values["learning_rate"] = float(report["learning_rate"])
        values["skipped_steps"] = int(report["skipped_steps"])
        if "smooth_loss" in report:
            values["smooth_loss"] = float(report["smooth_loss"])
        self._writer.metrics(step, "train", values)
        examples = rate * self._run.batches.batch_size
        self._writer.timing(step, "train", steps_per_second=rate, examples_per_second=examples)
        self._progress.note({"loss": values["loss"]})
        stop_if_diverged(self._run, int(report["bad_steps"]), step)

    @contextlib.contextmanager
    def pause(self, event: str, step: int) -> Iterator[None]:
        """Times something that is not training, and leaves it out of the steps a second."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._clock += seconds
        self._writer.timing(step, event, seconds=seconds)


def stop_if_diverged(run: Run, bad_steps: int, step: int) -> None:
    """Raises Diverged after `max_bad_steps` steps in a row that were not finite."""
    if bad_steps >= run.experiment.max_bad_steps:
        raise Diverged(
            f"the loss or its gradient was not finite in {run.experiment.max_bad_steps} steps in a "
            f"row (seen at step {step}); checkpoints saved before are intact. Lower "
            "optimizer.learning_rate or set optimizer.clip_norm, in a new --workdir"
        )

"""The lines of training metrics, written one step late, and where the time between them went."""

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from nn_lib import metrics
from nn_lib.data.batches import Batch
from nn_lib.train.run import Run
from nn_lib.train.watchdog import Watchdog
from nn_lib.train.writer import Progress, Writer

STEPS_AHEAD = 8  # of the device: enough to keep it busy, few enough to notice that it hangs
QUICK = 1e-3  # seconds for a batch, in which it matters little when exactly the device had ended
STARVED = 0.5  # share of a step's time


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that was not finite."""


class TrainingLog:
    """Writes the lines of training metrics one step late, so that no step waits for the disk.

    A line of timings says where the time since the one before it went, in seconds:
      `step_time`: of a step, on average, with what an evaluation beside it took, without what
        training stood still for.
      `data_wait`: the part of it in which the device had nothing to do before the batch came,
        up to a millisecond where batches come quickly.
      `evaluation`: the part of it in which batches of an evaluation were read and begun.
      `checkpoint_wait`: beside it, in all: training stood still for checkpoints. They are written
        while it goes on; what is waited for is a copy of the state, and the checkpoint before.
    """

    def __init__(
        self, run: Run, writer: Writer, progress: Progress, start: int, watchdog: Watchdog
    ):
        self._run, self._writer, self._progress = run, writer, progress
        self._watchdog = watchdog
        self._held: tuple[int, dict] | None = None
        self._step, self._clock = start, time.monotonic()
        self._next = start + 1
        self._in_flight: collections.deque[Any] = collections.deque()  # of jax.Array
        self._readiness: Readiness | None = None
        self._data_wait = self._checkpoint_wait = self._evaluation = 0.0
        self._said_starved = False

    def batches(self, batches: Iterator[Batch]) -> Iterator[tuple[int, Batch]]:
        """The batches with the numbers of their steps; measures how long they are waited for."""
        batches = iter(batches)
        while True:
            self._watchdog.begin("waiting for its batch", self._next)
            began = time.monotonic()
            idle = not self._in_flight or self._in_flight[-1].is_ready()
            batch = next(batches, None)
            if batch is None:
                return
            end = time.monotonic()
            self._data_wait += end - (began if idle else self._idle_since(began, end))
            if end - began > QUICK and self._readiness is None:
                self._readiness = Readiness()
            self._watchdog.begin("computing", self._next)
            yield self._next, batch
            self._next += 1

    def dispatched(self, report: dict) -> None:
        """Called after every step; waits for the one that was begun a few before it."""
        self._in_flight.append(report["bad_steps"])
        if self._readiness is not None:
            self._readiness.watch(report["bad_steps"])
        if len(self._in_flight) > STEPS_AHEAD:
            self._in_flight.popleft().block_until_ready()

    def _idle_since(self, began: float, end: float) -> float:
        """When the device had done all that was begun, between two moments."""
        if self._readiness is None or not self._in_flight[-1].is_ready():
            return end
        return min(max(self._readiness.of(self._in_flight[-1], otherwise=end), began), end)

    def close(self) -> None:
        """Ends; to be called once, after the last step."""
        if self._readiness is not None:
            self._readiness.close()

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
        steps = step - self._step
        step_time = max((now - self._clock) / steps, 1e-9)
        self._step, self._clock = step, now
        values = metrics.means(dict(zip(self._run.metric_names, report["metrics"])))
        values["learning_rate"] = float(report["learning_rate"])
        values["skipped_steps"] = int(report["skipped_steps"])
        if "smooth_loss" in report:
            values["smooth_loss"] = float(report["smooth_loss"])
        self._writer.metrics(step, "train", values)
        data_wait = self._data_wait / steps
        self._writer.timing(
            step,
            "train",
            steps_per_second=1 / step_time,
            examples_per_second=self._run.batches.batch_size / step_time,
            step_time=step_time,
            data_wait=data_wait,
            evaluation=self._evaluation / steps,
            checkpoint_wait=self._checkpoint_wait,
        )
        self._data_wait = self._checkpoint_wait = self._evaluation = 0.0
        self._progress.note({"loss": values["loss"]})
        if data_wait > max(STARVED * step_time, 1e-3) and not self._said_starved:
            self._said_starved = True
            self._progress.say(
                f"step {step:,}: {data_wait / step_time:.0%} of the time is spent waiting for "
                "batches; reading and preparing the data is what limits the speed"
            )
        stop_if_diverged(self._run, int(report["bad_steps"]), step)

    @contextlib.contextmanager
    def beside(self, step: int) -> Iterator[None]:
        """Times what is done for the evaluation of a step while later ones run."""
        self._watchdog.begin("evaluate", step)
        began = time.monotonic()
        yield
        self._evaluation += time.monotonic() - began
        self._watchdog.begin("computing", self._next)

    @contextlib.contextmanager
    def pause(self, event: str, step: int) -> Iterator[None]:
        """Times something that is not training, and leaves it out of the steps a second."""
        self._watchdog.begin(event, step)
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._clock += seconds
        if event == "checkpoint":
            self._checkpoint_wait += seconds
        self._writer.timing(step, event, seconds=seconds)


class Readiness:
    """Notes when results were ready, in a thread that waits for them."""

    def __init__(self):
        self._watched: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._last: tuple[Any, float] = (None, 0.0)
        threading.Thread(target=self._wait, name="readiness", daemon=True).start()

    def watch(self, result: Any) -> None:
        self._watched.put(result)

    def of(self, result: Any, otherwise: float) -> float:
        """When it was ready, where it is the last that was."""
        last, moment = self._last
        return moment if last is result else otherwise

    def close(self) -> None:
        self._watched.put(None)

    def _wait(self) -> None:
        while (result := self._watched.get()) is not None:
            with contextlib.suppress(Exception):  # whoever reads the result gets it too
                result.block_until_ready()
            self._last = result, time.monotonic()


def stop_if_diverged(run: Run, bad_steps: int, step: int) -> None:
    """Raises Diverged after `max_bad_steps` steps in a row that were not finite."""
    if bad_steps >= run.experiment.max_bad_steps:
        raise Diverged(
            f"the loss or its gradient was not finite in {run.experiment.max_bad_steps} steps in a "
            f"row (seen at step {step}); checkpoints saved before are intact. Lower "
            "optimizer.learning_rate or set optimizer.clip_norm, in a new --workdir"
        )

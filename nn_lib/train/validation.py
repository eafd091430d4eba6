"""The validations of a run, between its steps or beside them, and the best they have found."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from nn_lib import metrics
from nn_lib.train.run import Run
from nn_lib.train.state import TrainState
from nn_lib.train.training_log import TrainingLog
from nn_lib.train.writer import Writer


@dataclasses.dataclass
class Best:
    """The best validation metric so far, over finite values only, and its step."""

    step: int | None = None
    value: float | None = None

    def improved_by(self, value: float, mode: str) -> bool:
        if not math.isfinite(value):
            return False
        return self.value is None or (value > self.value if mode == "max" else value < self.value)


@dataclasses.dataclass
class Judged:
    """A validation that has ended: its state, the value of `select_by`, whether it is the best."""

    step: int
    state: TrainState
    value: float
    is_best: bool


class Validations:
    """Validates the states of a run, one after the other; `best` is the best so far.

    One that goes on beside training reads a copy of the state, a batch after each step, so that
    neither waits for the other's input. Lines of metrics wait for its own, so that the file has
    them in the order of steps.
    """

    def __init__(self, run: Run, best: Best, writer: Writer, lines: TrainingLog):
        self.best = best
        self._run, self._writer, self._lines = run, writer, lines
        self._beside: tuple[int, TrainState, Iterator[None]] | None = None
        self._found: dict[str, Any] | None = None

    def at_once(self, step: int, state: TrainState) -> Judged:
        """Validates the state before anything else is done."""
        self._lines.write()
        with self._lines.pause("evaluate", step):
            values = metrics.means(self._run.measure(state, "validation"))
        self._writer.metrics(step, "validation", values)
        return self._judge(step, state, values)

    def begin(self, step: int, state: TrainState) -> None:
        """Begins one that goes on beside training; the one before must have been concluded."""
        self._lines.write()
        state = self._run.layout.copy(state)
        self._beside = step, state, iter(self._run.measuring(state, "validation"))
        self._found = None
        self._writer.leave_out()

    def advance(self) -> bool:
        """Begins another batch; whether that was all, and `conclude` has nothing to wait for."""
        if self._beside is None or self._found is not None:
            return self._beside is not None
        step, _, batches = self._beside
        with self._lines.beside(step):
            try:
                next(batches)
            except StopIteration as end:
                self._found = end.value
        return self._found is not None

    def conclude(self) -> Judged | None:
        """Ends the one that goes on beside training and writes its line; None without one."""
        if self._beside is None:
            return None
        step, state, _ = self._beside
        with self._lines.pause("evaluate", step):
            while not self.advance():
                pass
        assert self._found is not None
        values = metrics.means(self._found)
        self._beside = self._found = None
        self._writer.fill_in(step, "validation", values)
        return self._judge(step, state, values)

    def _judge(self, step: int, state: TrainState, values: dict[str, float]) -> Judged:
        experiment = self._run.experiment
        value = values[experiment.select_by]
        is_best = self.best.improved_by(value, experiment.select_mode)
        if is_best:
            self.best = Best(step, value)
        return Judged(step, state, value, is_best)

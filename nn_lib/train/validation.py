"""The validations of a run, between its steps or beside them, and the best they have found."""

import dataclasses
import math
from collections.abc import Callable, Iterator
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

    A signal to stop is not kept waiting by one that takes minutes: it stays `unfinished`.
    """

    def __init__(
        self,
        run: Run,
        best: Best,
        writer: Writer,
        lines: TrainingLog,
        asked_to_stop: Callable[[], bool],
    ):
        """`asked_to_stop` is called after every batch that training waits for."""
        self.best = best
        self._run, self._writer, self._lines = run, writer, lines
        self._asked_to_stop = asked_to_stop
        self._going: tuple[int, TrainState, Iterator[None]] | None = None
        self._found: dict[str, Any] | None = None

    @property
    def unfinished(self) -> tuple[int, TrainState] | None:
        """The step and the state of the one that is not concluded."""
        return self._going and self._going[:2]

    def at_once(self, step: int, state: TrainState) -> Judged | None:
        """Validates the state before anything else is done; None where it is stopped."""
        self._begin(step, state)
        return self.conclude()

    def begin(self, step: int, state: TrainState) -> None:
        """Begins one that goes on beside training; the one before must have been concluded."""
        self._begin(step, self._run.layout.copy(state))

    def advance(self) -> bool:
        """Begins another batch; whether that was all, and `conclude` has nothing to wait for."""
        if self._going is None or self._found is not None:
            return self._going is not None
        with self._lines.beside(self._going[0]):
            self._take_batch()
        return self._found is not None

    def conclude(self) -> Judged | None:
        """Ends the one that goes on and writes its line; None without one, or where it is stopped.

        That of the plateau schedule is not stopped: what it finds belongs to the state.
        """
        if self._going is None:
            return None
        step, state, _ = self._going
        endures = self._run.experiment.optimizer.schedule == "plateau"
        with self._lines.pause("evaluate", step):
            while self._found is None:
                self._take_batch()
                if self._found is None and self._asked_to_stop() and not endures:
                    return None
        values = metrics.means(self._found)
        self._going = self._found = None
        self._writer.fill_in(step, "validation", values)
        return self._judge(step, state, values)

    def _begin(self, step: int, state: TrainState) -> None:
        self._lines.write()
        self._going = step, state, iter(self._run.measuring(state, "validation"))
        self._found = None
        self._writer.leave_out()

    def _take_batch(self) -> None:
        assert self._going is not None
        try:
            next(self._going[2])
        except StopIteration as end:
            self._found = end.value

    def _judge(self, step: int, state: TrainState, values: dict[str, float]) -> Judged:
        experiment = self._run.experiment
        value = values[experiment.select_by]
        is_best = self.best.improved_by(value, experiment.select_mode)
        if is_best:
            self.best = Best(step, value)
        return Judged(step, state, value, is_best)

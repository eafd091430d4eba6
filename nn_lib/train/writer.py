"""What a run tells: lines of metrics and timings, event files, and a progress bar."""

import math
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nn_lib.train import files
from nn_lib.train.workdir import METRICS, SAMPLES, TIMINGS


class Writer:
    """Writes a run's numbers to its work directory.

    `metrics.jsonl` gets what is the same in every repetition of the run, `timings.jsonl` what is
    not; both have one JSON object a line, with its `step`.
    """

    def __init__(self, workdir: Path, *, start: int, validated: bool = True):
        """Later lines than those of `start`, the step the run begins or resumes at, are dropped.

        Where it is not `validated` its validation is too, since the run makes up for that first.
        """
        self._folder = files.SameFolder(workdir)
        self._metrics = workdir / METRICS
        self._timings = workdir / TIMINGS
        self._samples = workdir / SAMPLES
        after = {"validation": start if validated else start - 1}
        files.keep_lines(
            self._metrics, lambda line: line["step"] <= after.get(line["split"], start)
        )
        files.keep_lines(self._samples, lambda line: line["step"] <= start)
        files.keep_lines(self._timings, lambda line: True)  # but half a line
        self._events = _Events(workdir, start)
        self._later: list[tuple[int, str, dict[str, float]]] | None = None

    def metrics(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line: `{"step": ..., "split": ..., name: value, ...}`; a NaN is written as null."""
        if self._later is not None:
            self._later.append((step, split, values))
            return
        clean = {k: v if math.isfinite(v) else None for k, v in sorted(values.items())}
        self._append(self._metrics, {"step": step, "split": split, **clean})
        for name, value in clean.items():
            if value is not None:
                self._events.scalar(f"{split}/{name}", value, step)
        self._events.flush()

    def leave_out(self) -> None:
        """Lines of metrics wait from now on for one that comes later and stands before them."""
        self._later = []

    def fill_in(self, step: int, split: str, values: dict[str, float]) -> None:
        """The line that was left out, and those that wait."""
        waiting, self._later = self._later or [], None
        for line in ((step, split, values), *waiting):
            self.metrics(*line)

    def timing(self, step: int, event: str, **values: float) -> None:
        """One line of how long something took; `values` in seconds or per second."""
        rounded = {name: round(value, 6) for name, value in values.items()}
        self._append(self._timings, {"step": step, "event": event, **rounded})

    def sample(self, step: int, text: str) -> None:
        """One line of what a language model writes."""
        self._append(self._samples, {"step": step, "text": text})

    def to_disk(self) -> None:
        """Returns when the lines outlive the machine; a checkpoint that is saved then has them."""
        for file in (self._metrics, self._samples):
            files.to_disk(file)

    def close(self) -> None:
        self._folder.close()
        self._events.close()

    def _append(self, file: Path, record: dict[str, Any]) -> None:
        self._folder.check()
        files.append(file, record)


class NoWriter(Writer):
    """Takes what a `Writer` takes, and writes nothing: of all processes but the first."""

    def __init__(self):
        pass

    def metrics(self, step, split, values) -> None:
        pass

    def leave_out(self) -> None:
        pass

    def fill_in(self, step, split, values) -> None:
        pass

    def timing(self, step, event, **values) -> None:
        pass

    def sample(self, step, text) -> None:
        pass

    def to_disk(self) -> None:
        pass

    def close(self) -> None:
        pass


class Progress:
    """A bar with rate and time left on a terminal; a line every ten seconds elsewhere."""

    def __init__(self, *, start: int, stop: int, batch_size: int, quiet: bool = False):
        self._batch_size, self._stop, self._step = batch_size, stop, start
        self._start, self._began = start, time.monotonic()
        self._quiet = quiet
        self._next_line = self._began + 10
        self._note = ""
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(total=stop, initial=start, unit=" steps", mininterval=0.2, leave=False)

    def advance(self) -> None:
        """Called after every step; costs a microsecond."""
        self._step += 1
        if self._bar is not None:
            self._bar.update(1)
        elif not self._quiet and self._step & 15 == 0 and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + 10
            self._line()

    def note(self, values: dict[str, float]) -> None:
        """Shows the latest metrics beside the bar, and examples a second."""
        self._note = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            rate = self._batch_size * self._rate()
            self._bar.set_postfix_str(f"{rate:,.0f} examples/s, {self._note}", refresh=False)

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _rate(self) -> float:
        return (self._step - self._start) / max(time.monotonic() - self._began, 1e-9)

    def _line(self) -> None:
        rate = self._rate()
        left = (self._stop - self._step) / max(rate, 1e-9)
        self.say(
            f"step {self._step:,} of {self._stop:,}: {rate:,.1f} steps/s, "
            f"{rate * self._batch_size:,.0f} examples/s, {left:,.0f} s left, {self._note}"
        )


class _Events:
    """TensorBoard's file, written without tensorboardX's thread.

    With that thread a full disk is a traceback of its own, and then a queue that waits for ever.
    """

    def __init__(self, workdir: Path, start: int):
        # Half a second that imports of the library save.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar, self._path = Event, scalar, workdir / "events*"
        begun = SessionLog(status=SessionLog.START)  # points beyond `start` are not shown
        with files.saving(self._path):
            self._file = EventsWriter(str(workdir / "events"))
            self._file.write_event(Event(step=start + 1, wall_time=time.time(), session_log=begun))

    def scalar(self, name: str, value: float, step: int) -> None:
        summary = self._scalar(name, value)
        with files.saving(self._path):
            self._file.write_event(self._event(step=step, wall_time=time.time(), summary=summary))

    def flush(self) -> None:
        with files.saving(self._path):
            self._file.flush()

    def close(self) -> None:
        with files.saving(self._path):
            self._file.close()

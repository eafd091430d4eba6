"""Trials as data: what a sweep runs, and what is known of each of its runs."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from nn_lib.train import files
from nn_lib.train.workdir import METRICS, SUMMARY, TIMINGS


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run of a sweep.

    Attributes:
      name: of its folder.
      candidate: the number of the point in the space; several seeds share it.
      fields: config field -> value, the seed included.
    """

    name: str
    candidate: int
    fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
      summary: the run's `summary.json`; None where it failed.
      error: what it said when it failed, in one line.
      seconds: that it trained, evaluated and saved, as its timings say.
    """

    summary: dict[str, Any] | None
    error: str | None
    seconds: float

    def metric(self, name: str, split: str = "validation") -> float | None:
        """A metric of a split, None where there is none."""
        return None if self.summary is None else self.summary.get(split, {}).get(name)


class Store:
    """The folder of a sweep: `trials/NAME` are work directories, `logs/NAME.txt` their output.

    An outcome is written once, in one piece, when a run has ended; so what a killed sweep had
    finished is known and what it had begun is continued.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("trials", "logs", "outcomes"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def workdir(self, trial: Trial) -> Path:
        return self.folder / "trials" / trial.name

    def log(self, trial: Trial) -> Path:
        return self.folder / "logs" / f"{trial.name}.txt"

    def outcome(self, trial: Trial, steps: int) -> Outcome | None:
        """The outcome of a trial at a number of steps; None while there is none."""
        known = self.known(trial, steps)
        summary = self._summary(trial)
        target = trial.fields.get("num_steps", steps)
        if known or summary is None or summary["steps"] != target:
            return known
        outcome = Outcome(summary, None, self._seconds(trial))
        return self._write(self._file(trial, steps), outcome)

    def known(self, trial: Trial, steps: int) -> Outcome | None:
        """The outcome where one was noted, without looking at the run."""
        file = self._file(trial, steps)
        return Outcome(**json.loads(file.read_text())) if file.exists() else None

    def forget_failures(self) -> None:
        """Lets the trials that failed be tried again."""
        for file in (self.folder / "outcomes").glob("*.json"):
            if json.loads(file.read_text())["error"] is not None:
                file.unlink()

    def failed(self, trial: Trial, steps: int, error: str) -> Outcome:
        """Notes that a trial failed; it is not run again until that is forgotten."""
        outcome = Outcome(None, error, self._seconds(trial))
        return self._write(self._file(trial, steps), outcome)

    def progress(self, trial: Trial) -> dict[str, Any]:
        """The last line of metrics of a run, {} before the first."""
        file = self.workdir(trial) / METRICS
        if not file.exists():
            return {}
        for line in reversed(file.read_text().splitlines()):
            try:
                return json.loads(line)
            except json.JSONDecodeError:  # half a line: it is being written
                continue
        return {}

    def _write(self, file: Path, outcome: Outcome) -> Outcome:
        files.write_atomically(file, json.dumps(dataclasses.asdict(outcome), indent=2))
        return outcome

    def _file(self, trial: Trial, steps: int) -> Path:
        return self.folder / "outcomes" / f"{trial.name}.{steps}.json"

    def _summary(self, trial: Trial) -> dict[str, Any] | None:
        file = self.workdir(trial) / SUMMARY
        return json.loads(file.read_text()) if file.exists() else None

    def _seconds(self, trial: Trial) -> float:
        """The sum of the timings; of what was done twice, because of a kill, the last counts."""
        file = self.workdir(trial) / TIMINGS
        if not file.exists():
            return 0.0
        last: dict[tuple[int, str], dict] = {}
        for line in file.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                record = json.loads(line)
                last[record["step"], record["event"]] = record
        seconds, before = 0.0, 0
        for (step, event), record in sorted(last.items()):
            if event == "train":
                seconds += (step - before) / record["steps_per_second"]
                before = step
            else:
                seconds += record["seconds"]
        return round(seconds, 2)

"""Runs trials as processes, some at once; whatever is killed, the next start goes on from there."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import filelock

from nn_lib.search.trials import Outcome, Store, Trial
from nn_lib.train.workdir import LOCKED

POLL_SECONDS = 0.2
# Exit statuses of a run that was asked to stop, by whomever: it saved and can be continued.
_ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPPED = {-number for number in _ASKED} | {128 + number for number in _ASKED}


class Runner:
    """Runs trials in processes of their own.

    Args:
      store: where they live.
      command: `(trial, steps) -> argv` of a process that trains to `steps` in the trial's work
        directory and continues there when started again. Its standard input stays open as long
        as this process lives, so that it can end with it.
      jobs: processes at once.
      watch: called a few times a second with the trials that run now.
      environment: variables of the processes, beside this one's.
    """

    def __init__(
        self,
        store: Store,
        command: Callable[[Trial, int], Sequence[str]],
        *,
        jobs: int = 1,
        watch: Callable[[list[Trial]], None] = lambda running: None,
        environment: Mapping[str, str] | None = None,
    ):
        self._store, self._command, self._jobs, self._watch = store, command, jobs, watch
        self._environment = {**os.environ, **(environment or {})}
        self._stopped: Counter[str] = Counter()

    def run(self, trials: Sequence[Trial], steps: int) -> dict[str, Outcome]:
        """The outcomes by name, of trials that had one already and of those that are run now.

        When this process is asked to stop, so are the trials, which save first.
        """
        outcomes = {}
        for trial in trials:
            known = self._store.outcome(trial, steps)
            if known is not None:
                outcomes[trial.name] = known
        waiting = [trial for trial in trials if trial.name not in outcomes]
        running: dict[str, tuple[Trial, subprocess.Popen]] = {}
        try:
            while waiting or running:
                self._watch([trial for trial, _ in running.values()])
                while waiting and len(running) < self._jobs:
                    trial = self._next(waiting)
                    if trial is None:
                        break
                    running[trial.name] = trial, self._start(trial, steps)
                for name, (trial, process) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[name]
                    outcome = self._ended(trial, steps, process.returncode)
                    if outcome is None:
                        waiting.append(trial)
                    else:
                        outcomes[name] = outcome
                time.sleep(POLL_SECONDS)
        finally:
            _stop([process for _, process in running.values()])
        return outcomes

    def _next(self, waiting: list[Trial]) -> Trial | None:
        """The next trial, passing over those that a process of a killed sweep still trains."""
        for trial in waiting:
            if not _is_locked(self._store.workdir(trial)):
                waiting.remove(trial)
                return trial
        return None

    def _start(self, trial: Trial, steps: int) -> subprocess.Popen:
        with open(self._store.log(trial), "a", encoding="utf-8") as log:
            return subprocess.Popen(
                list(self._command(trial, steps)),
                stdin=subprocess.PIPE,  # never written to: it ends when this process does
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )

    def _ended(self, trial: Trial, steps: int, status: int) -> Outcome | None:
        """The outcome of a process that ended; None where the trial is to be continued."""
        outcome = self._store.outcome(trial, steps) if status == 0 else None
        if outcome is not None:
            return outcome
        lines = self._store.log(trial).read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "it said nothing"
        was_stopped = status in STOPPED or LOCKED in said
        if was_stopped and self._stopped[trial.name] < 3:
            self._stopped[trial.name] += 1
            return None
        if status < 0:
            said = f"killed by {signal.Signals(-status).name} (out of memory?); {said}"
        elif status == 0:
            said = f"it ended without reaching step {steps}; {said}"
        return self._store.failed(trial, steps, said)


def _is_locked(workdir: Path) -> bool:
    """Whether a process trains in the work directory."""
    lock = workdir / ".lock"
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock, blocking=False):
            return False
    except filelock.Timeout:
        return True


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """SIGTERM to all, so that they save, and SIGKILL to those that do not end."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""A watchdog: says what a run that hangs is doing, with the stack of every thread."""

import faulthandler
import logging
import tempfile
import threading
import time

log = logging.getLogger("nn_lib")

STEP_LIMIT = 600.0
# What compiles, or goes over a whole split, or waits for a disk, may take so many times as long.
SLOW, SLOW_FACTOR = ("evaluate", "checkpoint", "sample"), 10


class Watchdog:
    """`with Watchdog(limit) as watchdog:`, then `watchdog.begin(what, step)` with all that begins.

    Where nothing else begins for `limit` seconds, that is reported once: one line and the stacks of
    all threads, as an error in the log. The run is left as it is. The first thing of each kind may
    take ten times as long, since it may compile, and so may evaluations and checkpoints.

    Args:
      limit: seconds; 0 watches nothing.
    """

    def __init__(self, limit: float = STEP_LIMIT):
        self._limit = limit
        self._now: tuple[str, int, float] | None = None
        self._seen: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def begin(self, what: str, step: int) -> None:
        """Notes that `what` of a step begins now; costs a fraction of a microsecond."""
        if self._now is not None:
            self._seen.add(self._now[0])
        self._now = (what, step, time.monotonic())

    def __enter__(self) -> "Watchdog":
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        if self._limit:
            self._thread.join()

    def _watch(self) -> None:
        reported = None
        while not self._ended.wait(min(self._limit / 4, 5.0)):
            now = self._now
            if now is None or now == reported:
                continue
            if reported is not None:
                log.warning("step %d goes on after all", reported[1])
                reported = None
            what, step, since = now
            seconds = time.monotonic() - since
            if seconds > self._allowed(what):
                reported = now
                log.error(
                    "step %d hangs: %s for %.0f s, where %.0f s are allowed (--step_limit). A "
                    "device or another process that does not answer is the usual reason. What "
                    "every thread is doing:\n%s",
                    *(step, what, seconds, self._allowed(what), stacks()),
                )

    def _allowed(self, what: str) -> float:
        slow = what in SLOW or what not in self._seen
        return self._limit * (SLOW_FACTOR if slow else 1)


def stacks() -> str:
    """The stack of every thread of this process, the innermost call first."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()

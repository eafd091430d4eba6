"""SIGTERM and Ctrl-C as a request that the loop answers after its step."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(Exception):
    """A run stopped by a signal after it had saved its state.

    Attributes:
      signal: SIGTERM or SIGINT.
      step: the step that was saved, or the trial of a sweep.
    """

    def __init__(self, number: int, step: int, unit: str = "step"):
        super().__init__(f"stopped by {signal.Signals(number).name} at {unit} {step}, saved")
        self.signal, self.step = number, step


class StopRequest:
    """`number` is the signal that asked for a stop, or None."""

    number: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns the first SIGTERM or SIGINT into a request; the second acts as it always does."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number, frame) -> None:
        request.number = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()

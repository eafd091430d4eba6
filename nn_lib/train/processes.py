"""What several processes of one run agree on: mistakes, damage, and the step to stop after.

With one process every function here answers at once.
"""

import secrets
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nn_lib.checks import UserError
from nn_lib.train.interrupt import StopRequest

BETWEEN_QUESTIONS = 0.5  # seconds, about; a notice of preemption comes half a minute ahead
MOST_BETWEEN = 10  # steps or batches, since the next ones may take much longer than the last
MESSAGE = 2000  # bytes
UNTIL_SEEN = 10  # seconds that a file system may take to show a new file to others
SAVE_FAILED = 1000  # beyond the numbers of signals


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def on_first(action: Callable[[], Any]) -> Any:
    """Calls it on the first process; its result there, None on the others.

    Raises:
      UserError: the action's, on every process.
    """
    return on_all(action if first() else lambda: None)


def on_all(action: Callable[[], Any]) -> Any:
    """Calls it, on every process.

    Raises:
      UserError: that of one of the processes, on every process.
    """
    if jax.process_count() == 1:
        return action()
    mistake, result = "", None
    try:
        result = action()
    except UserError as error:
        mistake = str(error)
    text = np.zeros(MESSAGE, np.uint8)
    encoded = np.frombuffer(mistake.encode()[:MESSAGE], np.uint8)
    text[: len(encoded)] = encoded
    said = np.asarray(multihost_utils.process_allgather(text))
    for process, text in enumerate(said):
        if text[0]:
            whose = f"process {process}: " if process else ""
            raise UserError(whose + text.tobytes().rstrip(b"\0").decode(errors="ignore"))
    return result


def check_same(what: str, value: int, advice: str) -> None:
    """Raises UserError on every process where this number is not the first one's on each."""
    if jax.process_count() == 1:
        return
    values = np.asarray(multihost_utils.process_allgather(np.array(value % 2**31, np.int32)))
    others = [str(process) for process in np.flatnonzero(values != values[0])]
    if others:
        raise UserError(
            f"the processes do not run the same: {what} of process {', '.join(others[:8])} differs "
            f"from that of process 0; {advice}"
        )


def check_shared(folder: Path) -> None:
    """Raises UserError on every process where one does not see what the first writes there.

    The folder must exist on the first.
    """
    if jax.process_count() == 1:
        return
    token = as_on_first(secrets.randbits(31))
    file = folder / f".seen-by-all-{token}"  # a name that no cache of a file system can know
    on_first(lambda: _touch(file))
    seen = _appears(file)
    everywhere = np.asarray(multihost_utils.process_allgather(np.array(seen)))
    on_first(lambda: file.unlink(missing_ok=True))
    if not everywhere.all():
        others = ", ".join(str(process) for process in np.flatnonzero(~everywhere)[:8])
        raise UserError(
            f"process {others} does not see what process 0 writes in the work directory "
            f"{str(folder)!r}; choose a --workdir on a file system that all processes share"
        )


def _touch(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise UserError(
            f"cannot write the work directory {str(file.parent)!r}: {error.strerror or error}; "
            "choose another --workdir"
        ) from error


def _appears(file: Path) -> bool:
    """Whether it is there, within some seconds."""
    end = time.monotonic() + UNTIL_SEEN
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return file.exists()


def as_on_first(number: int) -> int:
    """The number of the first process, on every process."""
    if jax.process_count() == 1:
        return int(number)
    return int(multihost_utils.broadcast_one_to_all(np.array(number, np.int32)))


def all_as_on_first(numbers: list[int]) -> list[int]:
    """The numbers of the first process, on every process."""
    count = as_on_first(len(numbers))
    if jax.process_count() == 1 or not count:
        return numbers[:count]
    own = np.resize(np.array(numbers or [0], np.int32), count)
    return multihost_utils.broadcast_one_to_all(own).tolist()


def on_every(fine: bool) -> bool:
    """Whether it is so on every process."""
    if jax.process_count() == 1:
        return fine
    return bool(np.all(multihost_utils.process_allgather(np.array(fine))))


def on_this_machine(group: str = "") -> int:
    """How many of the processes share this one's machine (and have said the same group), itself
    included."""
    if jax.process_count() == 1:
        return 1
    name = np.array(zlib.crc32(f"{socket.gethostname()} {group}".encode()), np.uint32)
    return int(np.sum(multihost_utils.process_allgather(name) == name))


class Stop:
    """The request to stop that any of the processes has received, answered by all after the same
    step of training or batch of an evaluation.

    A save that has failed in one of them is such a request too.

    The processes ask each other every half second or ten steps, whichever comes first, and read the
    answer when they ask next, so that no step waits for it. How many steps lie between is agreed in
    the same way.
    """

    def __init__(self, request: StopRequest, mesh: Mesh):
        self._request, self._mesh = request, mesh
        self._alone = jax.process_count() == 1
        self._asked, self._next, self._gap, self._clock = 0, 1, 1, time.monotonic()
        self._agreed: int | None = None
        self._answer: jax.Array | None = None
        self._combine = jax.jit(
            lambda said: jnp.max(said, axis=0), out_shardings=NamedSharding(mesh, PartitionSpec())
        )

    @property
    def number(self) -> int | None:
        """The signal that asks all to stop, or None."""
        return self._request.number if self._alone else self._agreed

    def asked(self, save_failed: bool = False) -> bool:
        """Whether every process stops now; to be called after each step and batch, by all."""
        self._asked += 1
        if self._alone or self._asked < self._next:
            return self.number is not None
        now = time.monotonic()
        seconds = max(now - self._clock, 1e-4) / self._gap
        self._clock = now
        signal = 0
        if self._answer is not None:
            signal, self._gap = map(int, jax.device_get(self._answer))
        request = SAVE_FAILED if save_failed else self._request.number or 0
        gap = int(min(BETWEEN_QUESTIONS / seconds, MOST_BETWEEN)) or 1
        self._answer = self._combine(self._said(request, gap))
        self._next = self._asked + self._gap
        self._agreed = signal or None
        return bool(signal)

    def _said(self, request: int, gap: int) -> jax.Array:
        """`int32[devices, 2]`: on each device what its process says."""
        said = np.array([[request, gap]], np.int32)
        sharding = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        shape = (self._mesh.size, 2)
        return jax.make_array_from_callback(shape, sharding, lambda _: said)

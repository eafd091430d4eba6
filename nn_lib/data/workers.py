"""Reading ahead of the training loop, in worker processes or threads, by Grain."""

import atexit
import contextlib
import errno
import functools
import gc
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import parent_process, resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import TypeVar

import grain
from absl import flags

from nn_lib.checks import UserError, first_line
from nn_lib.data.control_groups import limits

Item = TypeVar("Item")

STOPPING = (signal.SIGINT, signal.SIGTERM)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
PATIENCE = 30  # seconds for a worker to end; Grain kills one after 25
UNLIMITED = 10_240  # open files, where the hard limit is none; macOS allows no more


def read_ahead(read: Callable[[int], Item], start: int, stop: int, workers: int) -> Iterator[Item]:
    """`read(n)` for n from `start` to `stop`, in order, whoever reads them and how many.

    Some five items for every worker exist at a time, in `/dev/shm`. Closing the iterator ends the
    workers.

    Args:
      read: a function that can be pickled, where processes read.
      workers: processes; -1 is one for every core that this process may use, 0 two threads.

    Raises:
      UserError: a worker was killed or could not begin, or too many files are open.
    """
    if not workers:
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        yield from grain.MapDataset.range(start, stop).map(read).to_iter_dataset(options)
        return
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain asks absl's flags, also where there is no main
    resource_tracker.ensure_running()  # it would let signals through again where it is started
    count = min(cores() if workers < 0 else workers, stop - start)
    readers: list[_Worker] = []
    close = functools.partial(_close, readers)
    atexit.unregister(_until_memory_is_free)
    atexit.register(_until_memory_is_free)  # after `close`: what is registered last comes first
    atexit.register(close)  # where a mistake ends the run, its traceback keeps this iterator alive
    try:
        with _told_as_mistake():
            for first in range(start, start + count):
                readers.append(_Worker(read, range(first, stop, count)))
        for number in range(stop - start):
            yield readers[number % count].next()
    finally:
        close()
        atexit.unregister(close)


def _close(readers: list["_Worker"]) -> None:
    """Ends all of them at once: each takes its half a second to notice."""
    if not readers:
        return
    for reader in readers:
        reader.closing.set()
    for reader in readers:
        reader.thread.join(PATIENCE)
    readers.clear()
    gc.collect()  # Grain's circles of references hold shared memory


def _until_memory_is_free() -> None:
    """Waits for the thread in which Grain frees it; the interpreter warns of what is left."""
    gc.collect()
    end = time.monotonic() + 2
    while any(type(value) is SharedMemory for value in gc.get_objects()) and time.monotonic() < end:
        time.sleep(0.02)


class _Worker:
    """A process that reads the items of `numbers`, and a thread that starts and ends it.

    It starts with signals blocked, as the thread has them: SIGTERM and Ctrl-C often come to all
    processes of a run, and would end one that is not yet there to ignore them.
    """

    def __init__(self, read: Callable[[int], Item], numbers: range):
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        dataset = grain.MapDataset.range(numbers.start, numbers.stop, numbers.step).map(read)
        self._items = iter(
            dataset.to_iter_dataset(options).mp_prefetch(
                grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=1),
                worker_init_fn=_begin_worker,
            )
        )
        self._first: Future | None = Future()
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._attend, args=(self._first,), daemon=True)
        self.thread.start()

    def next(self):
        """The next item; Ctrl-C is heard while the first is waited for."""
        first, self._first = self._first, None
        with _told_as_mistake():
            return next(self._items) if first is None else first.result()

    def _attend(self, first: Future) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            first.set_result(next(self._items))
        except Exception as error:
            first.set_exception(error)
        del first  # with an item in it
        self.closing.wait()
        self._items.close()


@contextlib.contextmanager
def _told_as_mistake() -> Iterator[None]:
    """What Grain says of workers that cannot go on, in a line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in TOO_MANY_FILES:
            raise
        raise too_many_files(error) from error
    except RuntimeError as error:
        ended = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if ended is None:
            raise
        if int(ended[1]) < 0:  # by a signal
            raise UserError(
                "a worker process that reads the data was killed, as when memory runs out; the "
                "same command continues from the last checkpoint, with --config.data.workers=0 or "
                "fewer workers in less memory"
            ) from error
        raise UserError(
            f"a worker process that reads the data ended with status {ended[1]}, for the reason "
            "that it gave above; most likely it ran the script that started it once more: put what "
            'a script does under `if __name__ == "__main__":`, or set data.workers to 0'
        ) from error


def cores() -> int:
    """How many this process may use, also where a container or job has a share of their time."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    for _, limit in limits("cpu.max"):  # microseconds of processors' time, in so many
        quota, period = limit.split()
        if quota != "max":
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count


def allow_open_files() -> None:
    """Raises the limit of open files as far as this process may.

    TFDS cuts ImageNet into a thousand files, every process that reads it keeps them open, and the
    usual limit is 1,024.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, UNLIMITED)
        if soft not in (wanted, resource.RLIM_INFINITY):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def too_many_files(error: Exception) -> UserError:
    """The error that ends a run where that was not far enough."""
    return UserError(
        f"too many files are open to read the data ({first_line(error)}): every process that reads "
        "keeps those of its set open; raise the limit, as by `ulimit -n 65536`, or prepare the set "
        "in fewer files; the same command continues from the last checkpoint"
    )


def _begin_worker(index: int, count: int) -> None:
    """A worker leaves signals to the run, which saves first, and does not outlive it."""
    del index, count
    allow_open_files()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # those that waited are ignored too
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # nobody need look through all that is imported when the worker ends


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

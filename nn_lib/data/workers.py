"""Reading ahead of the training loop, in worker processes or threads, by Grain."""

import contextlib
import errno
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import parent_process
from typing import TypeVar

import grain
from absl import flags

from nn_lib.checks import UserError

Item = TypeVar("Item")

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
UNLIMITED = 10_240  # open files, where the hard limit is none; macOS allows no more


def read_ahead(read: Callable[[int], Item], start: int, stop: int, workers: int) -> Iterator[Item]:
    """`read(n)` for n from `start` to `stop`, in order, whoever reads them and how many.

    Some five items for every worker exist at a time, in `/dev/shm`. Closing the iterator ends the
    workers.

    Args:
      read: a function that can be pickled, where processes read.
      workers: processes; -1 is one for every core that this process may use, 0 two threads.
    """
    numbers = grain.MapDataset.range(start, stop).map(read)
    if not workers:
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        yield from numbers.to_iter_dataset(options)
        return
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain asks absl's flags, also where there is no main
    count = min(cores() if workers < 0 else workers, stop - start)
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator = iter(
        numbers.to_iter_dataset(options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=1),
            worker_init_fn=_begin_worker,
        )
    )
    try:
        yield from iterator
    except OSError as error:
        if error.errno not in TOO_MANY_FILES:
            raise
        raise too_many_files(error) from error
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            "a worker process that reads the data was killed, as when memory runs out; the same "
            "command continues from the last checkpoint, with --config.data.workers=0 or fewer "
            "workers in less memory"
        ) from error
    finally:
        iterator.close()
        del iterator
        # Grain's circles of references hold shared memory, and a thread of its own frees it; the
        # interpreter warns of what is left when it ends.
        gc.collect()
        time.sleep(0.1)


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    reason = str(error).splitlines()[0][:200]
    return UserError(
        f"too many files are open to read the data ({reason}): every process that reads keeps "
        "those of its set open; raise the limit, as by `ulimit -n 65536`, or prepare the set in "
        "fewer files; the same command continues from the last checkpoint"
    )


def _begin_worker(index: int, count: int) -> None:
    """A worker leaves signals to the run, which saves first, and does not outlive it."""
    del index, count
    allow_open_files()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

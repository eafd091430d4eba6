"""Files that outlive kills and full disks: whole or as they were, a line or none of it."""

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from nn_lib.checks import UserError

log = logging.getLogger("nn_lib")


class SaveFailed(RuntimeError):
    """Something could not be written: no space left, no permission, a folder that has vanished.

    The last checkpoint is intact, and the same command continues from it.
    """


@contextlib.contextmanager
def saving(file: Path) -> Iterator[None]:
    """Turns an OSError into SaveFailed with the file's name."""
    try:
        yield
    except OSError as error:
        raise SaveFailed(
            f"cannot write {str(file)!r}: {error.strerror or error}; checkpoints saved before are "
            "intact, and the same command continues from the last"
        ) from error


def write_atomically(file: Path, text: str) -> None:
    """The file holds its old content or all of the new one, whenever the process is killed.

    Raises:
      SaveFailed: it cannot be written.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    with saving(file):
        try:
            with open(temporary, "wb", buffering=0) as handle:
                write_all(handle.fileno(), text.encode())
                os.fsync(handle.fileno())
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def append(file: Path, record: dict[str, Any]) -> None:
    """Adds a line of JSON in one call of the system, so that a kill leaves all of it or none.

    Raises:
      SaveFailed: it cannot be written.
    """
    with saving(file):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            write_all(descriptor, (json.dumps(record) + "\n").encode())
        finally:
            os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """At the end, in one call of the system; raises OSError, and leaves nothing, where not all of
    it fits."""
    before = os.fstat(descriptor).st_size
    if os.write(descriptor, content) < len(content):
        os.ftruncate(descriptor, before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def to_disk(file: Path) -> None:
    """Returns when what was appended to it outlives the machine; nothing where there is no file.

    Raises:
      SaveFailed: it cannot be written.
    """
    if file.exists():
        with saving(file), open(file, "rb+") as handle:
            os.fsync(handle.fileno())


def keep_lines(file: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Keeps the lines that are wanted; removes the rest, and half a line that a kill has left."""
    if not file.exists():
        return
    kept = []
    for line in file.read_bytes().splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if wanted(json.loads(line)):
                kept.append(line.decode() + "\n")
    write_atomically(file, "".join(kept))


class SameFolder:
    """Notices when a folder has vanished, or another one has taken its place."""

    def __init__(self, folder: Path):
        """The folder must be there."""
        self._folder = folder
        with saving(folder):
            self._descriptor = os.open(folder, os.O_RDONLY)  # so that no other gets its number

    def check(self) -> None:
        """Raises SaveFailed where the path no longer leads to it."""
        with saving(self._folder):
            if not os.path.samestat(os.fstat(self._descriptor), os.stat(self._folder)):
                raise OSError("another folder has taken its place; put it back")

    def close(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def locked(
    folder: Path, busy: str = "another process works in", patience: float = 0
) -> Iterator[None]:
    """Keeps the folder, made where there is none, from other processes.

    Args:
      patience: seconds that another process may take to leave it.

    Raises:
      UserError: it cannot be written, or another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            if not patience:
                raise
            log.warning("%s %r; waiting up to %.0f s for its end", busy, str(folder), patience)
            lock.acquire(timeout=patience)
    except filelock.Timeout as error:
        raise UserError(f"{busy} {str(folder)!r}; let it end first") from error
    except OSError as error:
        raise UserError(
            f"cannot write the work directory {str(folder)!r}: {error.strerror or error}; choose "
            "another --workdir"
        ) from error
    try:
        yield
    finally:
        lock.release()

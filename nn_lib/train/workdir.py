"""A work directory: whose run it holds, and the files that make it enough by itself."""

import contextlib
import dataclasses
import errno
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import jax

from nn_lib.checks import UserError
from nn_lib.data import DataSet
from nn_lib.data.text import Vocabulary
from nn_lib.train import codec
from nn_lib.train.config import Experiment, conflicts

log = logging.getLogger("nn_lib")

CONFIG, DATA, METRICS, TIMINGS, SAMPLES, SUMMARY, CHECKPOINTS, PROFILE = (
    "config.json",
    "data.json",
    "metrics.jsonl",
    "timings.jsonl",
    "samples.jsonl",
    "summary.json",
    "checkpoints",
    "profile",
)

LOCKED = "another process trains in"
PATIENCE = 150  # seconds after which a network file system has given up the lock of a lost machine


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What a run remembers of its data: enough to use the model, and to notice other data."""

    fingerprint: int
    class_names: tuple[str, ...] | None
    vocabulary: Vocabulary | None
    target_vocabulary: Vocabulary | None = None

    @classmethod
    def of(cls, data: DataSet) -> "DataFacts":
        return cls(data.fingerprint(), data.class_names, data.vocabulary, data.target_vocabulary)

    def to_json(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "class_names": self.class_names and list(self.class_names),
            "vocabulary": self.vocabulary and self.vocabulary.to_json(),
            "target_vocabulary": self.target_vocabulary and self.target_vocabulary.to_json(),
        }


class SaveFailed(RuntimeError):
    """Something could not be written: no space left, no permission, a folder that has vanished.

    The last checkpoint is intact, and the same command continues from it.
    """


@contextlib.contextmanager
def claim(workdir: str | Path, experiment: Experiment, facts: DataFacts) -> Iterator[Path]:
    """Makes the directory this run's own while the context lasts.

    Everything is checked before anything is written.

    Raises:
      UserError: it holds another experiment, other data or foreign files, cannot be written, or
        another process is training in it.
    """
    path = Path(workdir).expanduser()
    encoded = codec.encode(experiment)
    _check_progress(path, experiment.num_steps)
    _check_vacant_or_same(path, encoded, facts)
    with locked(path, LOCKED, PATIENCE if jax.process_count() > 1 else 0):
        write_atomically(path / DATA, json.dumps(facts.to_json(), ensure_ascii=False))
        write_atomically(path / CONFIG, json.dumps(encoded, indent=2))
        yield path


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


def read_experiment(workdir: str | Path, trusted: tuple[str, ...] = codec.TRUSTED) -> Experiment:
    """The experiment of a work directory.

    Raises:
      UserError: no work directory, or a config.json that does not describe an experiment.
    """
    with _damaged(workdir, CONFIG):
        experiment = codec.decode(_read_json(Path(workdir).expanduser() / CONFIG), trusted)
        if not isinstance(experiment, Experiment):
            raise TypeError("it describes no Experiment")
    return experiment


def read_facts(workdir: str | Path) -> DataFacts:
    """The class names and vocabulary that the run of a work directory was trained with."""
    data = _read_json(Path(workdir).expanduser() / DATA)
    with _damaged(workdir, DATA):
        names = data["class_names"]
        return DataFacts(
            fingerprint=data["fingerprint"],
            class_names=names and tuple(names),
            vocabulary=Vocabulary.from_json(data["vocabulary"]),
            target_vocabulary=Vocabulary.from_json(data.get("target_vocabulary")),
        )


@contextlib.contextmanager
def _damaged(workdir: str | Path, name: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(workdir)!r} holds a damaged {name} ({error}); the notes of the checkpoints "
            "have its content too"
        ) from error


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


def drop_lines_after(file: Path, step: float) -> None:
    """Removes what a killed run wrote beyond the step it resumes from, half a line included."""
    if not file.exists():
        return
    kept = []
    for line in file.read_bytes().splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if json.loads(line)["step"] <= step:
                kept.append(line.decode() + "\n")
    write_atomically(file, "".join(kept))


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


def _check_vacant_or_same(path: Path, encoded: dict, facts: DataFacts) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"the work directory {str(path)!r} is a file; choose another --workdir")
    if not path.exists() or not any(not p.name.startswith(".") for p in path.iterdir()):
        return
    if not (path / CONFIG).exists():
        if {p.name for p in path.iterdir() if not p.name.startswith(".")} == {DATA}:
            return  # killed between its first two files
        raise UserError(
            f"the work directory {str(path)!r} holds other files and no config.json; choose a new "
            "or an empty one"
        )
    if not (path / METRICS).exists() and not any((path / CHECKPOINTS).glob("[0-9]*")):
        return  # it has made no progress that another experiment could spoil
    found = conflicts(_read_json(path / CONFIG), encoded)
    if found:
        listed = "; ".join(
            f"{name} was {before!r}, is {after!r}"
            for name, (before, after) in list(found.items())[:6]
        )
        raise UserError(
            f"the work directory {str(path)!r} holds another experiment: {listed}. Choose another "
            "--workdir, or undo the changes to continue that run"
        )
    if read_facts(path).fingerprint != facts.fingerprint:
        raise UserError(
            f"the work directory {str(path)!r} was trained on other data than "
            f"{encoded_data(encoded)} holds now; restore the data, or choose another --workdir"
        )


def _check_progress(path: Path, num_steps: int) -> None:
    steps = [int(f.name) for f in (path / CHECKPOINTS).glob("*") if f.name.isdecimal()]
    if max(steps, default=0) > num_steps:
        raise UserError(
            f"the run in {str(path)!r} is at step {max(steps)}, beyond num_steps {num_steps}; use "
            "more steps, or another --workdir"
        )


def encoded_data(encoded: dict) -> str:
    """The name by which an encoded experiment calls its data."""
    fields = encoded["fields"]["data"]["fields"]
    return repr(fields["path"] or fields["name"])


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{str(file.parent)!r} is no work directory: it holds no {file.name}; train one by "
            "experiments.train --workdir="
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} cannot be read: {error}") from error

"""A work directory: whose run it holds, and the files that make it enough by itself."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from nn_lib.checks import UserError
from nn_lib.data import DataSet
from nn_lib.data.text import Vocabulary
from nn_lib.train import codec
from nn_lib.train.config import Experiment, conflicts
from nn_lib.train.files import locked, write_atomically

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


@contextlib.contextmanager
def claim(workdir: str | Path, experiment: Experiment, facts: DataFacts) -> Iterator[Path]:
    """Makes the directory this run's own while the context lasts.

    Everything is checked before anything is written.

    Raises:
      UserError: it holds another experiment, other data or foreign files, cannot be read or
        written, or another process is training in it.
      SaveFailed: no space left.
    """
    path = Path(workdir).expanduser()
    encoded = codec.encode(experiment)
    try:
        _check_progress(path, experiment.num_steps)
        _check_vacant_or_same(path, encoded, facts)
    except OSError as error:
        raise UserError(
            f"cannot read the work directory {str(path)!r}: {error.strerror or error}; choose "
            "another --workdir"
        ) from error
    with locked(path, LOCKED, PATIENCE if jax.process_count() > 1 else 0):
        write_atomically(path / DATA, json.dumps(facts.to_json(), ensure_ascii=False))
        write_atomically(path / CONFIG, json.dumps(encoded, indent=2))
        yield path


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

"""What a run remembers of examples that cannot be decoded: `bad_examples*.jsonl`, one a process."""

import contextlib
import dataclasses
import json
from pathlib import Path

import jax

from nn_lib.data.bad_examples import BadExample, BadExamples
from nn_lib.train import files, processes


def remember(bad: BadExamples | None, workdir: Path) -> None:
    """Lets `bad` know what earlier starts met, on all processes, and writes what it meets itself.

    So each counts once against the limit in the life of a run, and is reported once, but for those
    met before the work directory was looked at.

    Raises:
      SaveFailed: what was met cannot be written; `bad` raises it too, later.
    """
    if bad is None:
        return
    process = jax.process_index()
    own = workdir / (f"bad_examples_{process}.jsonl" if process else "bad_examples.jsonl")
    if own.exists():  # without the half line of a killed process
        files.write_atomically(own, "".join(map(_line, _read(own))))
    met = list(bad.found.values())
    known = processes.on_all(lambda: _known(workdir))  # by all, before one writes
    bad.found = {example.key: example for example in known}

    def write(example: BadExample) -> None:
        files.append(own, dataclasses.asdict(example))

    for example in met:
        if example.key not in bad.found:
            bad.found[example.key] = example
            write(example)
    bad.on_new = write


def count(workdir: Path) -> int:
    """How many different examples the processes of a run have met."""
    return len({example.key for example in _known(workdir)})


def _known(workdir: Path) -> list[BadExample]:
    return [
        example for file in sorted(workdir.glob("bad_examples*.jsonl")) for example in _read(file)
    ]


def _read(file: Path) -> list[BadExample]:
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError, TypeError):
            found.append(BadExample(**json.loads(line)))
    return found


def _line(example: BadExample) -> str:
    return json.dumps(dataclasses.asdict(example)) + "\n"

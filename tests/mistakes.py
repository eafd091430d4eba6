"""Mistakes on the command line: each is one line and status 2, and nothing is written."""

import dataclasses
import subprocess
from pathlib import Path

from tests.processes import run_forked

# Flags of a run that is hardly trained.
QUICK = (
    "--config.num_steps=4",
    "--config.eval_every=2",
    "--config.checkpoint_every=2",
    "--config.log_every=2",
)


@dataclasses.dataclass
class Answers:
    """What was said to each mistake, the places in their arguments, whether files are as before."""

    found: list[subprocess.CompletedProcess]
    places: dict[str, Path]
    nothing_changed: bool


def make(mistakes, runs, tmp_path_factory) -> Answers:
    """Makes every mistake once, in forks of one process, since most time goes to starting up.

    A mistake is (main, arguments, what the line says). In its texts {runs} and {tmp} are folders,
    and {work} is one that must stay absent.
    """
    tmp, work = tmp_path_factory.mktemp("texts"), tmp_path_factory.mktemp("work") / "run"
    (tmp / "empty").write_text("")
    (tmp / "bytes").write_bytes(bytes(range(128, 256)) * 30)
    (tmp / "short").write_text("too short " * 9)
    (tmp / "one").write_text("".join(f"same\tname{'e' * n}\n" for n in range(20)))
    (tmp / "two").write_text("".join(f"{'ab'[n % 2]}\tname{'e' * n}\n" for n in range(20)))
    before = {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()}
    places = {"runs": runs, "tmp": tmp, "work": work}
    found = run_forked(
        [(main, [a.format(**places) for a in arguments]) for main, arguments, _ in mistakes]
    )
    after = {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()}
    return Answers(found, places, before == after and not work.exists())


def check(answers: Answers, mistakes, index: int):
    found, (main, _, message) = answers.found[index], mistakes[index]
    assert found.returncode == 2, found.stderr
    assert message.format(**answers.places) in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert found.stderr.startswith(f"experiments.{main}: ")
    assert found.stdout == ""

"""A fault campaign: runs are killed, damaged and starved of disk, restarted, and compared.

python -m experiments.faults [--count=200] [--seed=0] [--kinds='kill,bit flip']

Every fault has a run of its own, of some seconds on one CPU core: it is started, disturbed at a
random moment, and started again with the same command. That must end with the bits of a run that
was never disturbed (final checkpoint with its note, metrics.jsonl, summary.json), or stop with a
documented error: one line and its exit status. Processes are forks of this one, which has done the
imports, so that a fault costs seconds. With `--page` the table there is replaced.
"""

import argparse
import collections
import dataclasses
import json
import os
import platform
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.forks import PATIENCE, Forked, digest, start
from nn_lib.checks import UserError, check_choice

RUN = (
    "--config=configs/digits.py:cnn",
    "--config.model.features=(4, 8, 8)",
    *("--config.num_steps=120", "--config.optimizer.decay_steps=120"),
    *("--config.checkpoint_every=8", "--config.eval_every=20", "--config.log_every=5"),
)
STOPPED, LOST, WRONG, SAME = (
    "stopped with a documented error",
    "lost",
    "silently wrong",
    "identical",
)
OUTCOMES = (SAME, STOPPED, LOST, WRONG)
DOCUMENTED = (2, 74)
BEGIN, END = "<!-- campaign -->", "<!-- /campaign -->"


@dataclasses.dataclass
class Campaign:
    """Where runs lie, and what an undisturbed one ends with, for each number of processes."""

    folder: Path
    whole: dict[int, tuple[dict, float]] = dataclasses.field(default_factory=dict)

    def undisturbed(self, processes: int) -> tuple[dict, float]:
        """(digest, seconds) of a run with everything compiled before."""
        if processes not in self.whole:
            for name in ("first", "whole"):
                began = time.monotonic()
                workdir = self.folder / f"{name}{processes}"
                run = self.start(workdir, processes)
                status = run.wait()
                if status:
                    raise UserError(
                        f"the undisturbed run fails with status {status}:\n{run.said()}"
                    )
                found = digest(workdir)
                if "unreadable" in found:
                    raise UserError(f"an undisturbed run cannot be read: {found['unreadable']}")
                self.whole[processes] = (found, time.monotonic() - began)
        return self.whole[processes]

    def start(self, workdir: Path, processes: int) -> Forked:
        arguments = [*RUN, f"--workdir={workdir}", f"--compilation_cache={self.folder / 'cache'}"]
        return start("train", arguments, processes, log=workdir.with_suffix(".log"))


def sleep_or_end(run: Forked, seconds: float) -> bool:
    """Whether the run still goes on after that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.alive():
        time.sleep(0.002)
    return run.alive()


def kill(run: Forked, workdir: Path, duration: float, rng: random.Random) -> bool:
    """SIGKILL to one of the processes at any moment."""
    return sleep_or_end(run, rng.uniform(0.1, 1) * duration) and run.signal(signal.SIGKILL, rng)


def kill_in_a_save(run: Forked, workdir: Path, duration: float, rng: random.Random) -> bool:
    """SIGKILL while a checkpoint is written, or a moment later."""
    saves = rng.randint(1, 12)
    seen: set[str] = set()
    end = time.monotonic() + PATIENCE
    while run.alive() and time.monotonic() < end:
        seen |= {p.name for p in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")}
        if len(seen) >= saves:
            time.sleep(rng.choice([0, 0, rng.uniform(0, 0.02)]))
            return run.signal(signal.SIGKILL, rng)
        time.sleep(0.0005)
    return False


def terminate(run: Forked, workdir: Path, duration: float, rng: random.Random) -> bool:
    """SIGTERM to one of the processes at any moment."""
    return sleep_or_end(run, rng.uniform(0.1, 1) * duration) and run.signal(signal.SIGTERM, rng)


def no_space(run: Forked, workdir: Path, duration: float, rng: random.Random) -> bool:
    """From some moment on no file may grow beyond some size, in which its last words find room."""
    if not sleep_or_end(run, rng.uniform(0.1, 1) * duration):
        return False
    limit = int(10 ** rng.uniform(3.5, 4.7))
    for pid in run.pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return True


def flip(run: Forked, workdir: Path, duration: float, rng: random.Random) -> bool:
    """A killed run, and then a flipped bit in one file of its checkpoints."""
    file = _some_file(run, workdir, duration, rng)
    if file is None:
        return False
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return True


def truncate(run: Forked, workdir: Path, duration: float, rng: random.Random) -> bool:
    """A killed run, and then one file of its checkpoints cut short."""
    file = _some_file(run, workdir, duration, rng)
    if file is None:
        return False
    os.truncate(file, rng.randrange(file.stat().st_size))
    return True


KINDS = {
    "kill": kill,
    "kill in a save": kill_in_a_save,
    "SIGTERM": terminate,
    "no space": no_space,
    "bit flip": flip,
    "truncation": truncate,
}
WITH_TWO = ("kill", "SIGTERM")  # also with two processes


def _some_file(run: Forked, workdir: Path, duration: float, rng: random.Random) -> Path | None:
    """A file, not empty, of a whole checkpoint of the run, killed before."""
    if not kill(run, workdir, duration * 1.1, rng):
        return None
    run.wait()
    steps = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]
    files = [f for p in steps for f in sorted(p.rglob("*")) if f.is_file() and f.stat().st_size]
    return rng.choice(sorted(files)) if files else None


def inject(campaign: Campaign, kind: str, processes: int, seed: int) -> dict | None:
    """One fault and what came of it; None where the run ended before it could be disturbed."""
    rng = random.Random(f"{kind} {processes} {seed}")
    expected, duration = campaign.undisturbed(processes)
    workdir = campaign.folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    found = {"kind": kind, "processes": processes, "seed": seed}
    run = campaign.start(workdir, processes)
    if not KINDS[kind](run, workdir, duration, rng):
        run.kill()
        return None
    first, said = run.wait(), run.said()
    asked = {"SIGTERM": (0, 143, -15), "no space": (0, *DOCUMENTED)}.get(kind)
    if first is None or (asked and first not in asked) or (asked and "Traceback" in said):
        return {**found, "outcome": LOST, "why": f"disturbed: status {first}: {said[-2000:]}"}
    run = campaign.start(workdir, processes)
    status, said = run.wait(), run.said()
    why = said.strip().splitlines()[-1][:300] if said.strip() else ""
    if status == 0 and digest(workdir) == expected:
        return {**found, "outcome": SAME}
    if status == 0:
        ours, rest = digest(workdir), "evaluating the last" in said
        told = rest and {**ours, "summary": ""} == {**expected, "summary": ""}
        differing = [name for name in expected if ours.get(name) != expected[name]]
        return {
            **found,
            "outcome": STOPPED if told else WRONG,
            "why": "the best checkpoint was damaged, which a warning says; the last was evaluated"
            if told
            else f"differs in {', '.join(differing)}",
        }
    documented = status in DOCUMENTED and "Traceback" not in said
    return {
        **found,
        "outcome": STOPPED if documented else LOST,
        "why": why if documented else f"status {status}: {said[-2000:]}",
    }


def plan(count: int, kinds: list[str], share_of_two: float, rng: random.Random):
    """(kind, processes) of every fault: each kind as often, some with two processes."""
    for index in range(count):
        kind = kinds[index % len(kinds)]
        yield kind, 2 if kind in WITH_TWO and rng.random() < share_of_two else 1


def table(results: list[dict]) -> str:
    """Markdown: a row for every kind and number of processes, and their sum."""
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for result in results:
        several = "2 processes" if result["processes"] == 2 else "1 process"
        for name in (f"{result['kind']}, {several}", "all"):
            rows[name][result["outcome"]] += 1
    names = [*sorted(set(rows) - {"all"}), *(["all"] if rows else [])]
    lines = ["| fault | injected | " + " | ".join(OUTCOMES) + " |", "|---" * 6 + "|"]
    for name in names:
        cells = [str(sum(rows[name].values())), *(str(rows[name][o]) for o in OUTCOMES)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def campaign(count: int, seed: int, kinds: list[str], share_of_two: float) -> list[dict]:
    """Injects the faults one after the other, and prints each."""
    results: list[dict] = []
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Campaign(Path(folder))
        for kind, processes in plan(count, kinds, share_of_two, rng):
            found = None
            while found is None:  # the run was over before its fault came
                number = rng.randrange(2**32)
                found = inject(place, kind, processes, number)
            results.append(found)
            print(
                f"{len(results)} of {count}: {kind}, {processes} process(es), seed {number}: "
                f"{found['outcome']} {found.get('why', '')[:200]}",
                flush=True,
            )
            if found["outcome"] in (LOST, WRONG):
                kept = Path(tempfile.mkdtemp(prefix="fault_")) / "run"
                shutil.copytree(place.folder / "run", kept)
                print(f"{found['why']}\nits work directory is kept in {kept}", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="experiments.faults")
    parser.add_argument("--count", type=int, default=200, help="faults")
    parser.add_argument("--seed", type=int, default=0, help="of the campaign")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, separated by commas")
    parser.add_argument("--two", type=float, default=0.5, help="share with two processes")
    parser.add_argument("--page", default="", help="the page whose table is replaced")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    try:
        for kind in kinds:
            check_choice("--kinds", kind, KINDS)
        began = time.monotonic()
        results = campaign(options.count, options.seed, kinds, options.two)
    except UserError as mistake:
        print(f"experiments.faults: {mistake}", file=sys.stderr)
        return 2
    print(table(results))
    if options.page:
        _write(Path(options.page), results, options, (time.monotonic() - began) / 60)
    return int(any(result["outcome"] in (LOST, WRONG) for result in results))


def _write(page: Path, results: list[dict], options, minutes: float) -> None:
    """The table between its marks, and every fault in a JSON file beside the page."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    versions = f"Python {platform.python_version()}, {platform.machine()}"
    two = f" --two={options.two}" if options.two != 0.5 else ""
    text = (
        f"{BEGIN}\n`python -m experiments.faults --count={options.count} --seed={options.seed}"
        f"{two}`, commit {commit}, {versions}, {minutes:.0f} minutes:\n\n{table(results)}\n{END}"
    )
    before = page.read_text()
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: text, before, flags=re.DOTALL))
    page.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""A fault campaign: runs are killed, damaged and starved of disk, restarted, and compared.

python -m experiments.faults [--count=200] [--seed=0] [--kinds='kill,bit flip'] [--jobs=2]
python -m experiments.faults --again='bit flip,1,3735928559'

Every fault has a run of its own, of some seconds on one CPU core: it is started, disturbed at a
random moment, and started again with the same command; one in four is then killed at another such
moment, if it is not over before, and started once more. That must end with the bits of a run that
was never disturbed (final checkpoint with its note, metrics.jsonl, summary.json), or stop with a
documented error: one line and its exit status. Processes are forks of this one, which has done the
imports, so that a fault costs seconds. With `--page` the table there is replaced. `--again` repeats
one fault by what its line said: the moments drawn are the same, the run's speed is not.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.fault_kinds import ANY, DOCUMENTED, KINDS, LEFT_ALONE, STEPS, kill
from experiments.forks import Forked, digest, start
from nn_lib.checks import UserError, check_choice

RUN = (
    "--config=configs/digits.py:cnn",
    "--config.model.features=(4, 8, 8)",
    *(f"--config.num_steps={STEPS}", f"--config.optimizer.decay_steps={STEPS}"),
    *("--config.checkpoint_every=8", "--config.eval_every=20", "--config.log_every=5"),
    "--config.eval_batch_size=25",  # validations of several batches, which steps go on beside
)
STOPPED, LOST, WRONG, SAME = (
    "stopped with a documented error",
    "lost",
    "silently wrong",
    "identical",
)
OUTCOMES = (SAME, STOPPED, LOST, WRONG)
TWO = 0.2  # share of the faults with two processes
KILLED_TOO = 0.25  # share of the restarts
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


def inject(campaign: Campaign, kind: str, processes: int, seed: int) -> dict | None:
    """One fault and what came of it; None where the run ended well before it was disturbed."""
    rng = random.Random(f"{kind} {processes} {seed}")
    expected, duration = campaign.undisturbed(processes)
    workdir = campaign.folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    found = {"kind": kind, "processes": processes, "seed": seed}
    run = campaign.start(workdir, processes)
    allowed = KINDS[kind](run, workdir, duration, rng)
    first, said = run.wait(), run.said()
    if allowed is None and first == 0 and digest(workdir) == expected:
        return None
    if first is None or allowed is None or first not in allowed:
        disturbed = "disturbed" if allowed else "by itself"
        return {**found, "outcome": LOST, "why": f"{disturbed}: status {first}: {said[-2000:]}"}
    if allowed is not ANY:
        alone = first in (74, -signal.SIGTERM)  # it did not save with the others
        fine = (*allowed, *(LEFT_ALONE if alone else ()))
        wrong = set(run.statuses.values()).difference(fine)
        unsaid = first in DOCUMENTED and not re.search(DOCUMENTED[first], said)
        if wrong or unsaid or "Traceback" in said:
            ended = f"statuses {list(run.statuses.values())}"
            return {**found, "outcome": LOST, "why": f"disturbed: {ended}: {said[-2000:]}"}
    run = campaign.start(workdir, processes)
    if rng.random() < KILLED_TOO and kill(run, workdir, duration, rng):
        run.wait()
        found["restart_killed"] = True
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
    documented = re.search(DOCUMENTED.get(status or 0, "(?!)"), said) and "Traceback" not in said
    return {
        **found,
        "outcome": STOPPED if documented else LOST,
        "why": why if documented else f"status {status}: {said[-2000:]}",
    }


def plan(
    count: int, kinds: list[str], share_of_two: float, rng: random.Random
) -> Iterator[tuple[str, int]]:
    """(kind, processes) of every fault: each kind as often, some of each with two processes."""
    for index in range(count):
        kind = kinds[index % len(kinds)]
        yield kind, 2 if rng.random() < share_of_two else 1


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


def campaign(
    count: int,
    seed: int,
    kinds: list[str],
    share_of_two: float,
    jobs: int,
    on_each: Callable[[list[dict]], None] = lambda results: None,
) -> list[dict]:
    """Injects the faults, `jobs` at a time, and prints each; `on_each` gets all that there are."""
    results: list[dict] = []
    planned = plan(count, kinds, share_of_two, random.Random(seed))
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ProcessPoolExecutor(
            jobs, multiprocessing.get_context("fork"), _begin, (Path(folder),)
        ) as pool,
    ):
        begun = [
            pool.submit(_one, kind, processes, f"{seed} {index}")
            for index, (kind, processes) in enumerate(planned)
        ]
        for done in concurrent.futures.as_completed(begun):
            results.append(done.result())
            print(f"{len(results)} of {count}: {told(results[-1])}", flush=True)
            on_each(results)
    return results


_campaign: Campaign | None = None  # of this worker


def _begin(folder: Path) -> None:
    global _campaign
    _campaign = Campaign(Path(tempfile.mkdtemp(dir=folder)))


def _one(kind: str, processes: int, seed: str) -> dict:
    """The first fault of a sequence of random ones that comes before its run is over."""
    assert _campaign is not None
    rng = random.Random(seed)
    found = None
    while found is None:
        found = inject(_campaign, kind, processes, rng.randrange(2**32))
    if found["outcome"] in (LOST, WRONG):
        kept = Path(tempfile.mkdtemp(prefix="fault_")) / "run"
        shutil.copytree(_campaign.folder / "run", kept)
        found["why"] += f"\nits work directory is kept in {kept}"
    return found


def told(found: dict) -> str:
    """A fault in a line, and more where it was lost."""
    why = found.get("why", "")
    if found["outcome"] not in (LOST, WRONG):
        why = why[:200]
    several = "1 process" if found["processes"] == 1 else f"{found['processes']} processes"
    return f"{found['kind']}, {several}, seed {found['seed']}: {found['outcome']} {why}"


def again(text: str) -> list[dict]:
    """Repeats one fault: 'KIND,PROCESSES,SEED'."""
    found = re.fullmatch(r"(.+),([12]),(\d+)", text)
    if not found:
        raise UserError(
            f"--again expects KIND,PROCESSES,SEED, got {text!r}; for example 'kill,2,7'"
        )
    kind, processes, seed = found.groups()
    check_choice("--again", kind, KINDS)
    with tempfile.TemporaryDirectory() as folder:
        result = inject(Campaign(Path(folder)), kind, int(processes), int(seed))
    print(told(result) if result else "this time the run was over before the fault came")
    return [result] if result else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="experiments.faults")
    parser.add_argument("--count", type=int, default=200, help="faults")
    parser.add_argument("--seed", type=int, default=0, help="of the campaign")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, separated by commas")
    parser.add_argument(
        "--two", type=float, default=TWO, help="share of the faults with two processes"
    )
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time")
    parser.add_argument("--page", default="", help="the page whose table is replaced")
    parser.add_argument("--again", default="", help="one fault: KIND,PROCESSES,SEED")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    try:
        for kind in kinds:
            check_choice("--kinds", kind, KINDS)
        if min(options.count, options.jobs) < 1:
            raise UserError("--count and --jobs must be at least 1")
        if options.page and not Path(options.page).is_file():
            raise UserError(f"--page {options.page!r} is no file; name docs/reliability.md")
        began = time.monotonic()
        if options.again:
            results = again(options.again)
        else:
            write = functools.partial(_write, options, began) if options.page else _nothing
            plan = (options.count, options.seed, kinds, options.two, options.jobs)
            results = campaign(*plan, on_each=write)
    except UserError as mistake:
        print(f"experiments.faults: {mistake}", file=sys.stderr)
        return 2
    print(table(results))
    return int(any(result["outcome"] in (LOST, WRONG) for result in results))


def _write(options: argparse.Namespace, began: float, results: list[dict]) -> None:
    """The table between its marks, and every fault in a JSON file beside the page."""
    page, minutes = Path(options.page), (time.monotonic() - began) / 60
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    versions = f"Python {platform.python_version()}, {platform.machine()}"
    command = f"python -m experiments.faults --count={options.count} --seed={options.seed}"
    command += f" --two={options.two}" if options.two != TWO else ""
    cut = "" if len(results) == options.count else f", ended after {len(results)} of them"
    killed = sum(result.get("restart_killed", False) for result in results)
    text = f"{BEGIN}\n`{command}`, commit {commit}, {versions}, {minutes:.0f} minutes{cut}; "
    text += f"{killed} of the restarts were killed too:\n\n{table(results)}\n{END}"
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: text, page.read_text(), flags=re.DOTALL))
    page.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


def _nothing(results: list[dict]) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())

"""Measures the rows that configs promise in their headers, and writes docs/results.md.

python -m experiments.results [--rows=mnist1d_paper,shallow] [-j 2]
The same command continues where it was stopped; a row is measured once per commit.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from absl import flags

from experiments import command_line, config_files
from nn_lib.checks import UserError, nearest
from nn_lib.search import ledger
from nn_lib.search.runner import Runner
from nn_lib.search.trials import Store, Trial
from nn_lib.train import files
from nn_lib.train.interrupt import Interrupted, stop_on_signals

ROWS = flags.DEFINE_list(
    "rows", [], "Rows, variants with all their rows, or files; all where left out."
)
RUNS = flags.DEFINE_string("runs", "runs/ledger", "Where the runs live, by commit.")
JOBS = flags.DEFINE_integer("jobs", 1, "Runs at once; 1 for honest times.", short_name="j")
RETRY = flags.DEFINE_bool("retry_failed", False, "Run again what failed in an earlier start.")
RENDER = flags.DEFINE_bool("render", False, "Only write docs/results.md anew.")

RECORDS, PAGE = Path("docs/results.json"), Path("docs/results.md")
INTRODUCTION = """# Measured results

Made by `make results` from the `Ledger` lines in the headers of `configs/` and `experiments/`;
the records are in `results.json`. Published is what others report; expected what we ask of
ourselves; the spread a standard deviation over seeds. A time covers training, evaluation and
saving, not the start of the process.

"""


def main() -> None:
    sources = [*sorted(Path("configs").glob("[!_]*.py")), Path("experiments/shallow.py")]
    rows = ledger.promises(sources)
    chosen = [] if RENDER.value else choose(rows, ROWS.value)
    measured = ledger.read(RECORDS)
    commit, device = (clean_commit(), device_name()) if chosen else ("", "")
    failures = 0
    with files.locked(Path(RUNS.value)), stop_on_signals() as stop:
        try:
            for number, row in enumerate(chosen, 1):
                print(f"{number} of {len(chosen)}: {row.name}", file=sys.stderr, flush=True)
                found = measure(row, commit, device, stop)
                if isinstance(found, str):
                    failures += found.startswith("failed")
                    print(f"  {found}", file=sys.stderr, flush=True)
                    continue
                measured[row.key] = found
                shown = ", ".join(row.written(value) for value in found.values)
                print(f"  {row.split} {row.metric} {shown}", file=sys.stderr, flush=True)
        finally:
            files.write_atomically(RECORDS, ledger.as_json(measured))
            files.write_atomically(PAGE, INTRODUCTION + ledger.as_table(rows, measured))
    print(f"written  {PAGE}, {RECORDS}")
    if failures:
        sys.exit(f"experiments.results: {failures} rows failed; --retry_failed runs them again")


def choose(rows: list[ledger.Promise], names: list[str]) -> list[ledger.Promise]:
    """The rows that names mean: those of a file, `digits`, of a variant, `digits:mlp`, or one."""
    meant = [(row, {row.source.stem, f"{row.source.stem}:{row.variant}", row.name}) for row in rows]
    known = set().union(*(names for _, names in meant))
    for name in names:
        if name not in known:
            raise UserError(f"--rows: there is no {name!r}; {nearest(name, known)}")
    return [row for row, own in meant if not names or own & set(names)]


def measure(row: ledger.Promise, commit: str, device: str, stop) -> ledger.Measurement | str:
    """The measurement of a row, or why there is none."""
    absent = [word for word in row.flags if "$" in os.path.expandvars(word)]
    if absent:
        return f"skipped: set the environment variable in {' '.join(absent)}"
    is_config = row.source.parent.name == "configs"
    location = f"{row.source}:{row.variant}"
    steps = config_files.load_config(location).num_steps if is_config else 0
    base = (
        ["experiments.train", f"--config={location}"]
        if is_config
        else [f"experiments.{row.source.stem}"]
    )
    store = Store(Path(RUNS.value) / commit / re.sub(r"[^\w.=-]+", "_", row.name))
    if RETRY.value:
        store.forget_failures()
    trials = [Trial(f"seed{seed}", 0, {"seed": seed}) for seed in range(row.seeds)]

    def command(trial, steps):
        seed = f"--{'config.' if is_config else ''}seed={trial.fields['seed']}"
        given = map(os.path.expandvars, row.flags)
        place = f"--workdir={store.workdir(trial)}"
        return [sys.executable, "-m", *base, "--end_with_parent", place, seed, *given]

    def watch(running):
        if stop.number is not None:
            raise Interrupted(stop.number, 0, "row")

    outcomes = Runner(store, command, jobs=JOBS.value, watch=watch).run(trials, steps)
    errors = [outcome.error for outcome in outcomes.values() if outcome.error]
    if errors:
        return f"failed: {errors[0]}"
    found = [outcomes[trial.name] for trial in trials]
    values = [outcome.metric(row.metric, row.split) for outcome in found]
    if None in values:
        return f"failed: its summary has no {row.split} {row.metric}"
    return ledger.Measurement(
        values=tuple(value for value in values if value is not None),
        seconds=sum(outcome.seconds for outcome in found) / len(found),
        parameters=(found[0].summary or {}).get("parameters"),
        command=" ".join(["python -m", *base, *row.flags]),
        commit=commit,
        device=device,
    )


def clean_commit() -> str:
    """The commit of the code.

    Raises:
      UserError: no commit, or code that differs from it, which no number could be attributed to.
    """
    code = ["nn_lib", "experiments", "configs"]
    try:
        changed = _git("status", "--porcelain", "--", *code)
        commit = _git("rev-parse", "--short", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError("results belong to a commit, and git finds none here") from error
    if changed:
        raise UserError(
            f"results belong to a commit, and {changed.split()[-1]} has changes; commit them first"
        )
    return commit


def device_name() -> str:
    """'2 cores of AMD EPYC', '8 x NVIDIA H200'; asked in a process that then frees the device."""
    code = "import jax; print(jax.device_count(), jax.devices()[0].device_kind, sep='|')"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count, _, kind = found.strip().partition("|")
    if kind != "cpu":
        return f"{count} x {kind}"
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    affinity = getattr(os, "sched_getaffinity", None)  # fewer under taskset, and XLA keeps to it
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"{cores} core{'s' * (cores != 1)} of {names[0] if names else platform.machine()}"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    command_line.run(main, required=())

"""A sweep: points in a space of config fields, each trained with one or more seeds."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nn_lib.checks import UserError
from nn_lib.search import space as spaces
from nn_lib.search.runner import Runner
from nn_lib.search.trials import Outcome, Store, Trial
from nn_lib.train import codec, files

PLAN = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides which trials a sweep has, and what each of them computes.

    Attributes:
      config: the value of `--config`.
      experiment: what it and the overrides make, encoded: the file may change, a sweep may not.
      overrides: flags that every trial gets.
      search: the ranges as they were written.
      mode: 'grid' or 'random'.
      trials: points of a random search.
      points: values along each range of a grid that is not a list.
      seeds: trainings of every point, with the config's seed and those after it.
      seed: the config's.
      sweep_seed: of the random points.
      metric: of the validation split, by which points are ranked.
      select_mode: 'max' or 'min', which metric is better.
      steps: of a whole training.
      halving: eta of successive halving: every rung trains the best 1/eta eta times as long; 0
        trains all to the end.
      min_steps: of the first rung.
    """

    config: str
    experiment: dict[str, Any]
    overrides: tuple[str, ...]
    search: tuple[str, ...]
    mode: str
    trials: int
    points: int
    seeds: int
    seed: int
    sweep_seed: int
    metric: str
    select_mode: str
    steps: int
    halving: int = 0
    min_steps: int = 0

    @property
    def space(self) -> dict[str, spaces.Range]:
        """Field -> range.

        Raises:
          UserError: an empty space, a field named twice, a range that cannot be meant.
        """
        parsed = [spaces.parse(text) for text in self.search]
        if not parsed:
            raise UserError(
                "the search space is empty; name a field and its range, as in "
                "--search='optimizer.learning_rate=loguniform(1e-4, 1e-1)'"
            )
        fields = [field for field, _ in parsed]
        for field in fields:
            if fields.count(field) > 1:
                raise UserError(f"--search: {field} has two ranges; give it one")
        return dict(parsed)

    def candidates(self) -> list[dict[str, Any]]:
        """The points, in the order in which they are run."""
        if self.mode == "grid":
            return spaces.grid(self.space, self.points)
        return spaces.sample(self.space, self.trials, self.sweep_seed)

    def all_trials(self) -> list[Trial]:
        """Every point with every seed."""
        found = []
        for candidate, point in enumerate(self.candidates()):
            for offset in range(self.seeds):
                name = f"{candidate:03}" + (f"_seed{offset}" if self.seeds > 1 else "")
                fields = {**point, "seed": self.seed + offset}
                found.append(Trial(name, candidate, fields))
        return found

    def rungs(self) -> list[int]:
        """Steps that trials are trained to, one rung after the other; the last is `steps`."""
        if not self.halving:
            return [self.steps]
        least = max(self.min_steps, 1)
        count = int(math.log(max(self.steps / least, 1)) / math.log(self.halving) + 1e-9)
        return [max(self.steps // self.halving**k, 1) for k in range(count, -1, -1)]


@dataclasses.dataclass
class Row:
    """What a table of results shows of a trial; `steps` is how far it was to be trained."""

    trial: Trial
    outcome: Outcome
    steps: int


@contextlib.contextmanager
def claim(folder: Path, plan: Plan) -> Iterator[Store]:
    """Makes the folder this sweep's own while the context lasts, or finds that it is.

    Raises:
      UserError: it holds something else, or a sweep of another plan (more random trials are
        fine), or another process runs it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(folder)!r} is a file; choose another --workdir")
    file = folder / PLAN
    now = json.loads(json.dumps(dataclasses.asdict(plan)))
    if file.exists():
        before = json.loads(file.read_text())
        changed = {k: (before.get(k), now[k]) for k in now if before.get(k) != now[k]}
        more = "trials" in changed and now["trials"] > before["trials"] and not plan.halving
        if plan.mode == "random" and more:
            del changed["trials"]
        if "experiment" in changed:
            found = codec.differences(*changed.pop("experiment"))
            changed |= {f"config.{field}": pair for field, pair in found.items()}
        if changed:
            listed = "; ".join(f"{k} was {a!r}, is {b!r}" for k, (a, b) in changed.items())
            raise UserError(
                f"{str(folder)!r} holds another sweep: {listed}. Choose another --workdir, or undo "
                "the changes to continue that sweep"
            )
    elif folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise UserError(
            f"{str(folder)!r} holds other files and no {PLAN}; choose a new or an empty --workdir"
        )
    with files.locked(folder):
        files.write_atomically(file, json.dumps(now, indent=2))
        yield Store(folder)


def run(plan: Plan, store: Store, runner: Runner) -> list[Row]:
    """Trains what is not trained yet, rung after rung; the rows of all trials."""
    trials = plan.all_trials()
    for steps in plan.rungs():
        outcomes = runner.run(trials, steps)
        if steps < plan.steps:
            ranked = ranking(plan, [Row(trial, outcomes[trial.name], steps) for trial in trials])
            kept = {row for row, _ in ranked[: max(1, len(ranked) // plan.halving)]}
            trials = [trial for trial in trials if trial.candidate in kept]
    return rows_so_far(plan, store)


def rows_so_far(plan: Plan, store: Store) -> list[Row]:
    """A row for every trial with an outcome, that of the last rung it has come to."""
    rows = []
    for trial in plan.all_trials():
        for steps in reversed(plan.rungs()):
            outcome = store.known(trial, steps)
            if outcome is not None:
                rows.append(Row(trial, outcome, trial.fields.get("num_steps", steps)))
                break
    return rows


def ranking(plan: Plan, rows: Sequence[Row]) -> list[tuple[int, float]]:
    """(candidate, mean metric over its seeds) from the best on, of those that went furthest.

    A candidate with a failed seed, or with a metric that is not finite, is not ranked.
    """
    values: dict[int, list[float]] = {}
    reached = [row.steps for row in rows if row.outcome.summary]
    furthest = max(reached, default=0) if plan.halving else 0
    for row in rows:
        value = row.outcome.metric(plan.metric) if row.steps >= furthest else None
        values.setdefault(row.trial.candidate, []).append(math.nan if value is None else value)
    means = [(candidate, float(np.mean(found))) for candidate, found in values.items()]
    means = [(candidate, mean) for candidate, mean in means if math.isfinite(mean)]
    sign = -1 if plan.select_mode == "max" else 1
    return sorted(means, key=lambda pair: (sign * pair[1], pair[0]))


def fields_of(point: Mapping[str, Any]) -> list[str]:
    """The point as command-line overrides, less None, which the field then holds anyway."""
    return [f"--config.{field}={value}" for field, value in point.items() if value is not None]

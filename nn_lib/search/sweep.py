"""A sweep: points in a space of config fields, each trained with one or more seeds."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nn_lib.checks import UserError
from nn_lib.search import space as spaces
from nn_lib.search.runner import Runner
from nn_lib.search.trials import Outcome, Store, Trial
from nn_lib.train import workdir as files

PLAN = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides which trials a sweep has, and what each of them computes.

    Attributes:
      config: the value of `--config`.
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
        points = self.candidates()
        digits = len(str(len(points) - 1))
        found = []
        for candidate, point in enumerate(points):
            for offset in range(self.seeds):
                name = f"{candidate:0{digits}}" + (f"_seed{offset}" if self.seeds > 1 else "")
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


def claim(folder: Path, plan: Plan) -> None:
    """Makes the folder this sweep's, or finds that it is.

    Raises:
      UserError: it holds something else, or a sweep of another plan; more random trials are fine.
    """
    file = folder / PLAN
    now = json.loads(json.dumps(dataclasses.asdict(plan)))
    if file.exists():
        before = json.loads(file.read_text())
        changed = {k: (before.get(k), now[k]) for k in now if before.get(k) != now[k]}
        more = "trials" in changed and now["trials"] > before["trials"] and not plan.halving
        if plan.mode == "random" and more:
            del changed["trials"]
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_atomically(file, json.dumps(now, indent=2))
    except OSError as error:
        raise UserError(
            f"cannot write {str(folder)!r}: {error.strerror or error}; choose another --workdir"
        ) from error


def run(plan: Plan, store: Store, runner: Runner, report: Callable[[list[Row]], None]) -> list[Row]:
    """Trains what is not trained yet; `report` gets the rows so far after every rung."""
    trials, rows = plan.all_trials(), {}
    for steps in plan.rungs():
        outcomes = runner.run(trials, steps)
        for trial in trials:
            rows[trial.name] = Row(trial, outcomes[trial.name], steps)
        report(list(rows.values()))
        if steps < plan.steps:
            ranked = ranking(plan, [rows[trial.name] for trial in trials])
            kept = {row for row, _ in ranked[: max(1, len(ranked) // plan.halving)]}
            trials = [trial for trial in trials if trial.candidate in kept]
    return list(rows.values())


def ranking(plan: Plan, rows: Sequence[Row]) -> list[tuple[int, float]]:
    """(candidate, mean metric over its seeds) from the best on, of those that went furthest.

    A candidate with a failed seed, or with a metric that is not finite, is not ranked.
    """
    values: dict[int, list[float]] = {}
    furthest = max((row.steps for row in rows if row.outcome.summary), default=0)
    for row in rows:
        value = row.outcome.metric(plan.metric) if row.steps == furthest else None
        values.setdefault(row.trial.candidate, []).append(math.nan if value is None else value)
    means = [(candidate, float(np.mean(found))) for candidate, found in values.items()]
    means = [(candidate, mean) for candidate, mean in means if math.isfinite(mean)]
    sign = -1 if plan.select_mode == "max" else 1
    return sorted(means, key=lambda pair: (sign * pair[1], pair[0]))


def fields_of(point: Mapping[str, Any]) -> list[str]:
    """The point as command-line overrides."""
    return [f"--config.{field}={value}" for field, value in point.items()]

"""Searches over config fields: every trial a process and a work directory of its own.

python -m experiments.sweep --config=configs/digits.py:mlp --workdir=runs/sweep -j 2 \\
    --search='optimizer.learning_rate=loguniform(1e-4, 1e-1)' --search='optimizer.name=[sgd, adam]'
The same command continues a sweep that was stopped; no trial runs twice.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import command_line
from experiments.live import LiveTable
from nn_lib.checks import UserError
from nn_lib.search import report, space, sweep
from nn_lib.search.runner import Runner
from nn_lib.search.trials import Store
from nn_lib.train import config as experiment_config
from nn_lib.train.interrupt import Interrupted, stop_on_signals

CONFIG = command_line.define_config()
WORKDIR = flags.DEFINE_string("workdir", "", "Where the sweep lives; the same again continues it.")
SEARCH = flags.DEFINE_multi_string(
    "search", [], "FIELD=RANGE, once per field; a range is " + space.EXAMPLES + "."
)
MODE = flags.DEFINE_enum("mode", "grid", ["grid", "random"], "How points are chosen.")
TRIALS = flags.DEFINE_integer("trials", 20, "Points of a random search.", lower_bound=1)
POINTS = flags.DEFINE_integer("points", 3, "Grid values along a range.", lower_bound=2)
SEEDS = flags.DEFINE_integer("seeds", 1, "Trainings of every point.", lower_bound=1)
SWEEP_SEED = flags.DEFINE_integer("sweep_seed", 0, "Of the random points.", lower_bound=0)
METRIC = flags.DEFINE_string("metric", "", "Of validation, to rank by; '' takes select_by.")
HALVING = flags.DEFINE_integer(
    "halving", 0, "Successive halving: train the best 1/N N times as long, and so on; 0 does not."
)
MIN_STEPS = flags.DEFINE_integer("min_steps", 100, "Of the first rung of halving.", lower_bound=1)
JOBS = flags.DEFINE_integer("jobs", 1, "Trials at once.", lower_bound=1, short_name="j")


def main() -> None:
    plan = make_plan()
    folder = Path(WORKDIR.value).expanduser()
    sweep.claim(folder, plan)
    store = Store(folder)
    with LiveTable(plan, store) as table, stop_on_signals() as stop:

        def watch(running):
            table.show(running)
            if stop.number is not None:
                raise Interrupted(stop.number, len(table.done), "trial")

        def save(rows):
            report.write_csv(folder / "results.csv", plan, rows)

        runner = Runner(store, command_of(plan, store), jobs=JOBS.value, watch=watch)
        rows = sweep.run(plan, store, runner, save)
    pictures = report.draw(folder, plan, rows)
    print(table.text(rows))
    failed = sum(row.outcome.summary is None for row in rows)
    if failed:
        print(f"{failed} of {len(rows)} failed; what they said is in {folder / 'logs'}")
    print(f"table        {folder / 'results.csv'}")
    print(f"pictures     {folder}/: {', '.join(file.name for file in pictures) or 'none'}")
    ranked = sweep.ranking(plan, rows)
    if ranked:
        best, value = ranked[0]
        fields = sweep.fields_of(plan.candidates()[best])
        command = ["python -m experiments.train", f"--config={plan.config}", "--workdir=runs/best"]
        print(f"best         validation {plan.metric} {value:.4f}, point {best}; again by")
        print(" ".join([*command, *map(command_line.quoted, [*plan.overrides, *fields])]))


def make_plan() -> sweep.Plan:
    """The flags as a plan, every mistake in them found before anything is written."""
    experiment = CONFIG.value
    experiment_config.check(experiment)
    if HALVING.value == 1 or HALVING.value < 0:
        raise UserError(f"--halving={HALVING.value} must be 2 or more, or 0 for none")
    if experiment.data.validation_split == "":
        raise UserError("a sweep ranks by validation, and data.validation_split is ''; name one")
    plan = sweep.Plan(
        config=command_line.config_location(),
        overrides=tuple(command_line.overrides(sys.argv)),
        search=tuple(SEARCH.value),
        mode=MODE.value,
        trials=TRIALS.value,
        points=POINTS.value,
        seeds=SEEDS.value,
        seed=experiment.seed,
        sweep_seed=SWEEP_SEED.value,
        metric=METRIC.value or experiment.select_by,
        select_mode=experiment.select_mode,
        steps=experiment.num_steps,
        halving=HALVING.value,
        min_steps=MIN_STEPS.value,
    )
    for field, axis in plan.space.items():
        if field == "seed" or (field == "num_steps" and plan.halving):
            raise UserError(f"--search: {field} is the sweep's own here; see --seeds and --halving")
        present = command_line.field_value(experiment, field)
        space.check_values(field, axis, present)
    return plan


def command_of(plan: sweep.Plan, store: Store):
    """How a trial is trained to a number of steps; a schedule's length stays the whole."""

    def command(trial, steps):
        fields = dict(trial.fields)
        if plan.halving:
            fields |= {"num_steps": steps, "optimizer.decay_steps": plan.steps}
        return [
            *(sys.executable, "-m", "experiments.train"),
            *(f"--config={plan.config}", f"--workdir={store.workdir(trial)}"),
            *(*plan.overrides, *sweep.fields_of(fields)),
        ]

    return command


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"))

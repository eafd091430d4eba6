"""Searches over config fields: every trial a process and a work directory of its own.

python -m experiments.sweep --config=configs/digits.py:mlp --workdir=runs/sweep -j 2 \\
    --search='optimizer.learning_rate=loguniform(1e-4, 1e-1)' --search='optimizer.name=[sgd, adam]'
The same command continues a sweep that was stopped; no trial runs twice.
"""

import re
import sys
from pathlib import Path

import jax
from absl import flags

from experiments import command_line, config_files
from experiments.live import LiveTable
from nn_lib.checks import UserError, check_choice
from nn_lib.search import report, space, sweep
from nn_lib.search.runner import Runner
from nn_lib.search.trials import Store
from nn_lib.train import codec
from nn_lib.train.interrupt import Interrupted, stop_on_signals
from nn_lib.train.run import Run

CONFIG = config_files.define_config()
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
METRIC_MODE = flags.DEFINE_enum("metric_mode", None, ["max", "min"], "Which --metric is better.")
HALVING = flags.DEFINE_integer(
    "halving", 0, "Successive halving: train the best 1/N N times as long, and so on; 0 does not."
)
MIN_STEPS = flags.DEFINE_integer("min_steps", 100, "Of the first rung of halving.", lower_bound=1)
JOBS = flags.DEFINE_integer("jobs", 1, "Trials at once.", lower_bound=1, short_name="j")
RETRY = flags.DEFINE_bool("retry_failed", False, "Run again what failed in an earlier start.")


def main() -> None:
    jax.config.update("jax_platforms", "cpu")  # accelerators are the trials'
    plan = make_plan()
    folder = Path(WORKDIR.value).expanduser()
    with sweep.claim(folder, plan) as store, stop_on_signals() as stop:
        if RETRY.value:
            store.forget_failures()
        with LiveTable(plan, store) as table:

            def watch(running):
                if table.show(running):
                    report.write_csv(folder / "results.csv", plan, table.rows)
                if stop.number is not None:
                    raise Interrupted(stop.number, len(table.rows), "trial")

            share = (
                {}
                if JOBS.value == 1
                else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / JOBS.value:.3f}"}
            )
            runner = Runner(
                store, command_of(plan, store), jobs=JOBS.value, watch=watch, environment=share
            )
            rows = sweep.run(plan, store, runner)
        report.write_csv(folder / "results.csv", plan, rows)
        pictures = report.draw(folder, plan, rows)
    print(table.text(rows))
    failed = sum(row.outcome.summary is None for row in rows)
    if failed:
        print(
            f"{failed} of {len(rows)} failed; what they said is in {folder / 'logs'}; once mended,"
        )
        print("the same command with --retry_failed runs them again")
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
    """The flags as a plan, every mistake in them and in the config found before any writing."""
    experiment = CONFIG.value
    if METRIC.value and METRIC.value != experiment.select_by and METRIC_MODE.value is None:
        raise UserError(f"--metric={METRIC.value} needs --metric_mode=max or min: which is better?")
    if HALVING.value == 1 or HALVING.value < 0:
        raise UserError(f"--halving={HALVING.value} must be 2 or more, or 0 for none")
    plan = sweep.Plan(
        config=config_files.config_location(),
        experiment=codec.encode(experiment),
        overrides=tuple(config_files.overrides(sys.argv)),
        search=tuple(SEARCH.value),
        mode=MODE.value,
        trials=TRIALS.value,
        points=POINTS.value,
        seeds=SEEDS.value,
        seed=experiment.seed,
        sweep_seed=SWEEP_SEED.value,
        metric=METRIC.value or experiment.select_by,
        select_mode=METRIC_MODE.value or experiment.select_mode,
        steps=experiment.num_steps,
        halving=HALVING.value,
        min_steps=MIN_STEPS.value,
    )
    own = ["seed", *(["num_steps", "optimizer.decay_steps"] if plan.halving else [])]
    for field, axis in plan.space.items():
        if field in own:
            raise UserError(f"--search: {field} is the sweep's own here; see --seeds and --halving")
        if any(re.match(rf"--?config\.{re.escape(field)}\b", word) for word in plan.overrides):
            raise UserError(
                f"--search: {field} is also fixed by an override; leave one of them out"
            )
        space.check_values(field, axis, config_files.field_value(experiment, field))
    if plan.halving and len(plan.rungs()) == 1:
        raise UserError(
            f"--halving={plan.halving} has one rung: num_steps {plan.steps} is less than "
            f"{plan.halving} times --min_steps={plan.min_steps}"
        )
    run = Run.prepare(experiment)
    if "validation" not in run.data.readers:
        raise UserError("a sweep ranks by the validation split, and there is none; name one")
    check_choice("--metric", plan.metric, run.validation_metrics)
    return plan


def command_of(plan: sweep.Plan, store: Store):
    """How a trial is trained to a number of steps; a schedule's length stays the whole."""
    whole = {}
    if plan.halving and CONFIG.value.optimizer.decay_steps is None:
        whole = {"optimizer.decay_steps": plan.steps}

    def command(trial, steps):
        fields = {**trial.fields, **({"num_steps": steps, **whole} if plan.halving else {})}
        return [
            *(sys.executable, "-m", "experiments.train"),
            *(f"--config={plan.config}", f"--workdir={store.workdir(trial)}"),
            *("--end_with_parent", *plan.overrides, *sweep.fields_of(fields)),
        ]

    return command


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"))

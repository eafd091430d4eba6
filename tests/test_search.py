"""Search spaces, sweeps and their processes; the trials here are scripts that end at once."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nn_lib.checks import UserError
from nn_lib.search import report, space, sweep
from nn_lib.search.runner import Runner
from nn_lib.search.trials import Store, Trial
from tests.processes import ROOT, environment


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("optimizer.name=[sgd, adam]", "optimizer.name", space.Choice(("sgd", "adam"))),
        ("model.hidden=[(64,), (8, 8)]", "model.hidden", space.Choice(((64,), (8, 8)))),
        ("a = [1e-3, -2, None, True]", "a", space.Choice((1e-3, -2, None, True))),
        ("name=['mnist1d/shuffled']", "name", space.Choice(("mnist1d/shuffled",))),
        ("config.x=uniform(0, 0.5)", "x", space.Uniform(0, 0.5)),
        ("x=loguniform(1e-4, 0.1)", "x", space.LogUniform(1e-4, 0.1)),
        ("x=integer(16, 256)", "x", space.Integer(16, 256)),
    ],
)
def test_a_range_is_read_as_it_is_written(text, field, expected):
    assert space.parse(text) == (field, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "expects field=range"),
        ("x=", "expects field=range"),
        ("x=[]", "the list is empty"),
        ("x=[1, 1]", "holds a value twice"),
        ("x=uniform(1, 0)", r"uniform\(1, 0\) is upside down"),
        ("x=uniform(1, 1)", "upside down or empty"),
        ("x=loguniform(0, 1)", "needs bounds above 0"),
        ("x=integer(0.5, 2)", "expects whole numbers"),
        ("x=uniform(a, b)", "expects two numbers"),
        ("x=unifrom(0, 1)", "there is no range 'unifrom'; did you mean uniform"),
        ("x=0.1", "is no range, which is"),
        ("x=[1, 2", "is no range, which is"),
        ("x=[mnist1d/shuffled]", "put text with signs in it in quotes"),
    ],
)
def test_a_range_that_cannot_be_meant_is_named(text, message):
    with pytest.raises(UserError, match=message):
        space.parse(text)


@pytest.mark.parametrize(
    ("text", "present", "message"),
    [
        ("x=uniform(1, 9)", 4, "is a whole number"),
        ("x=[1.5]", 4, "holds a int"),
        ("x=[fast]", 0.1, "holds a float"),
        ("x=[1]", "adam", "holds a str"),
    ],
)
def test_a_range_of_another_type_than_the_field_is_named(text, present, message):
    with pytest.raises(UserError, match=message):
        space.check_values(*space.parse(text), present)


def test_a_grid_is_every_combination_and_random_points_do_not_depend_on_their_number():
    axes = dict(map(space.parse, ["a=[x, y]", "b=loguniform(0.01, 1)", "c=integer(1, 3)"]))
    points = space.grid(axes, 3)
    assert len(points) == 2 * 3 * 3 and points[0] == {"a": "x", "b": 0.01, "c": 1}
    assert [p["b"] for p in points[::3]][:3] == [0.01, 0.1, 1.0]
    assert space.sample(axes, 5, seed=1) == space.sample(axes, 9, seed=1)[:5]
    assert space.sample(axes, 5, seed=1) != space.sample(axes, 5, seed=2)


@given(st.integers(0, 1000), st.floats(1e-6, 1e3), st.floats(1.01, 1e4))
def test_samples_lie_within_their_bounds(seed, low, factor):
    rng = np.random.default_rng(seed)
    for kind in (space.Uniform, space.LogUniform):
        value = kind(low, low * factor).sample(rng)
        assert low <= value <= low * factor
    assert 3 <= space.Integer(3, 5).sample(rng) <= 5


def test_a_log_uniform_range_has_its_median_at_the_geometric_mean():
    values = [space.LogUniform(1e-4, 1.0).sample(np.random.default_rng(s)) for s in range(2000)]
    assert np.mean(np.array(values) < 1e-2) == pytest.approx(0.5, abs=0.04)


def test_grid_and_random_search_try_n_and_n_squared_values_of_an_axis():
    axes = {"a": space.Uniform(0, 1), "b": space.Uniform(0, 1)}
    assert len({p["a"] for p in space.grid(axes, 3)}) == 3
    assert len({p["a"] for p in space.sample(axes, 9, seed=0)}) == 9


def plan(**fields) -> sweep.Plan:
    defaults = {
        "config": "configs/x.py",
        "experiment": {"class": "x", "fields": {"a": 0}},
        "overrides": (),
        "search": ("a=[1, 2, 3]",),
        "mode": "grid",
        "trials": 5,
        "points": 3,
        "seeds": 1,
        "seed": 7,
        "sweep_seed": 0,
        "metric": "accuracy",
        "select_mode": "max",
        "steps": 9,
    }
    return sweep.Plan(**{**defaults, **fields})


# A trial: notes that it began, and leaves a summary with the accuracy a / 10, or fails for a = 0.
SCRIPT = """
import json, pathlib, sys, time
workdir, a, steps, pause = pathlib.Path(sys.argv[1]), *map(float, sys.argv[2:])
workdir.mkdir(parents=True, exist_ok=True)
with open(workdir.parent / 'starts', 'a') as file:
    file.write(workdir.name + '\\n')
time.sleep(pause)
if a == 0:
    sys.exit('a is 0, which is a mistake')
values = {'accuracy': a / 10}
summary = {'steps': int(steps), 'validation': values, 'test': values}
(workdir / 'summary.json').write_text(json.dumps(summary))
"""


def runner(store: Store, pause: float = 0.0, **options) -> Runner:
    def command(trial, steps):
        a = trial.fields["a"]
        return [
            sys.executable, "-c", SCRIPT, str(store.workdir(trial)), str(a), str(steps), str(pause)
        ]  # fmt: skip

    return Runner(store, command, **options)


def starts(store: Store) -> list[str]:
    return (store.folder / "trials" / "starts").read_text().split()


def test_every_point_and_seed_is_a_trial_with_seeds_from_the_configs_on():
    found = plan(seeds=2).all_trials()
    assert [t.name for t in found] == [f"00{c}_seed{s}" for c in range(3) for s in range(2)]
    assert [t.fields for t in found[2:4]] == [{"a": 2, "seed": 7}, {"a": 2, "seed": 8}]


def test_a_stopped_sweep_continues_and_runs_nothing_twice(tmp_path):
    store = Store(tmp_path)

    def stop(running):
        if store.outcome(plan().all_trials()[0], 9):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner(store, pause=0.3, watch=stop).run(plan().all_trials(), 9)
    finished = [t.name for t in plan().all_trials() if store.outcome(t, 9)]
    assert 1 <= len(finished) < 3
    outcomes = runner(store, jobs=2).run(plan().all_trials(), 9)
    assert [outcomes[f"00{i}"].metric("accuracy") for i in range(3)] == [0.1, 0.2, 0.3]
    assert all(starts(store).count(name) == 1 for name in finished)


def test_a_trial_that_fails_is_a_row_with_its_error_and_is_not_run_again(tmp_path):
    store, failing = Store(tmp_path), plan(search=("a=[0, 2]",))
    rows = sweep.run(failing, store, runner(store))
    assert rows[0].outcome.error == "a is 0, which is a mistake"
    assert rows[1].outcome.metric("accuracy") == 0.2
    sweep.run(failing, store, runner(store))
    assert sorted(starts(store)) == ["000", "001"]
    store.forget_failures()
    sweep.run(failing, store, runner(store))
    assert sorted(starts(store)) == ["000", "000", "001"]
    report.write_csv(tmp_path / "results.csv", failing, rows)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0] == ("trial,a,seed,status,steps,test_accuracy,validation_accuracy,seconds,error")
    assert lines[1:] == [
        '000,0,7,failed,9,,,0.0,"a is 0, which is a mistake"',
        "001,2,7,done,9,0.2,0.2,0.0,",
    ]


def test_a_trial_that_is_killed_says_so(tmp_path):
    store = Store(tmp_path)
    command = [sys.executable, "-c", "import os; print('hi', flush=True); os.kill(os.getpid(), 9)"]
    found = Runner(store, lambda trial, steps: command).run(plan().all_trials()[:1], 9)
    assert found["000"].error == "killed by SIGKILL (out of memory?); hi"


def test_a_trial_that_is_asked_to_stop_goes_on_and_one_that_insists_fails(tmp_path):
    store, trial = Store(tmp_path), plan().all_trials()[0]
    asked = (
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]); n = len(p.read_text()) if p.exists()"
    )
    script = (
        asked + " else 0; p.write_text('x' * (n + 1)); sys.exit(143 if n < int(sys.argv[2]) else 5)"
    )
    for stops, error in ((1, "it said nothing"), (9, "it said nothing")):
        note = tmp_path / f"note{stops}"
        command = [sys.executable, "-c", script, str(note), str(stops)]
        store.forget_failures()
        found = Runner(store, lambda trial, steps, c=command: c).run([trial], 9)
        assert found["000"].error == error
        assert len(note.read_text()) == min(stops, 3) + 1


def test_a_trial_that_another_process_still_trains_is_waited_for(tmp_path):
    store, trial = Store(tmp_path), plan().all_trials()[0]
    store.workdir(trial).mkdir()
    lock = filelock.FileLock(store.workdir(trial) / ".lock")
    lock.acquire()
    polls = []

    def watch(running):
        polls.append(len(running))
        if len(polls) == 3:
            lock.release()

    found = runner(store, watch=watch).run([trial], 9)
    assert polls[:3] == [0, 0, 0] and found["000"].metric("accuracy") == 0.1


def test_at_most_so_many_trials_run_at_once(tmp_path):
    most = []
    store = Store(tmp_path)
    runner(store, pause=0.5, jobs=2, watch=lambda running: most.append(len(running))).run(
        plan(search=("a=[1, 2, 3, 4]",)).all_trials(), 9
    )
    assert max(most) == 2


def test_halving_trains_the_better_part_longer(tmp_path):
    halving = plan(search=("a=[1, 2, 3, 4, 5, 6, 7, 8, 9]",), steps=90, halving=3, min_steps=10)
    assert halving.rungs() == [10, 30, 90]
    store = Store(tmp_path)
    rows = sweep.run(halving, store, runner(store, jobs=2))
    assert {row.trial.fields["a"]: row.steps for row in rows} == {
        **dict.fromkeys(range(1, 7), 10),
        **dict.fromkeys((7, 8), 30),
        9: 90,
    }
    assert sweep.ranking(halving, rows) == [(8, 0.9)]
    again = sweep.run(halving, store, runner(store))  # ranks each rung as it was
    assert again == rows and len(starts(store)) == 9 + 3 + 1


def test_points_are_ranked_by_their_mean_over_seeds_and_not_with_a_failed_one(tmp_path):
    two = plan(seeds=2, select_mode="min")
    rows = []
    for trial in two.all_trials():
        outcome = Store(tmp_path).failed(trial, 9, "no")
        if (trial.candidate, trial.fields["seed"]) != (0, 8):
            value = {1: 0.5, 2: 0.3}.get(trial.candidate, 0.0) + trial.fields["seed"] / 100
            outcome = dataclasses.replace(outcome, summary={"validation": {"accuracy": value}})
        rows.append(sweep.Row(trial, outcome, 9))
    assert [candidate for candidate, _ in sweep.ranking(two, rows)] == [2, 1]
    assert sweep.ranking(two, rows)[0][1] == pytest.approx(0.375)


def claim(folder, plan):
    with sweep.claim(folder, plan) as store:
        return store


def test_a_folder_belongs_to_one_sweep_which_may_get_more_random_trials(tmp_path):
    folder, space = tmp_path / "sweep", ("a=integer(1, 9)",)
    few, many = (plan(mode="random", search=space, trials=n) for n in (8, 12))
    store = claim(folder, few)
    sweep.run(few, store, runner(store, jobs=2))
    claim(folder, many)
    sweep.run(many, store, runner(store, jobs=2))
    assert sorted(starts(store)) == [f"{n:03}" for n in range(12)]
    with pytest.raises(UserError, match="holds another sweep: trials was 12, is 8"):
        claim(folder, few)
    with pytest.raises(UserError, match="holds another sweep: mode was 'random', is 'grid'"):
        claim(folder, dataclasses.replace(many, mode="grid"))
    changed = {"class": "x", "fields": {"a": 1}}
    with pytest.raises(UserError, match=r"holds another sweep: config.a was 0, is 1"):
        claim(folder, dataclasses.replace(many, experiment=changed))
    with sweep.claim(folder, many), pytest.raises(UserError, match="another process works in"):
        claim(folder, many)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; choose another"):
        claim(tmp_path / "file", many)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files and no sweep"):
        claim(tmp_path / "other", plan())


@pytest.mark.parametrize(
    ("search", "message"),
    [((), "the search space is empty"), (("a=[1]", "a=[2]"), "a has two ranges")],
)
def test_a_space_must_have_fields_each_once(search, message):
    with pytest.raises(UserError, match=message):
        plan(search=search).all_trials()


def test_the_time_of_a_trial_counts_what_was_done_twice_once(tmp_path):
    store, trial = Store(tmp_path), Trial("0", 0, {})
    store.workdir(trial).mkdir()
    lines = [
        {"step": 10, "event": "train", "steps_per_second": 10.0},
        {"step": 10, "event": "checkpoint", "seconds": 0.5},
        {"step": 20, "event": "train", "steps_per_second": 10.0},
        {"step": 20, "event": "train", "steps_per_second": 5.0},  # again, after a kill
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3'
    (store.workdir(trial) / "timings.jsonl").write_text(text)
    (store.workdir(trial) / "summary.json").write_text(json.dumps({"steps": 20}))
    assert store.outcome(trial, 20).seconds == pytest.approx(1 + 0.5 + 2)


def test_pictures_show_the_metric_against_each_field_and_two_in_a_plane(tmp_path):
    from PIL import Image

    for name, search in {
        "cells": ("a=[1, 2, 3]", "b=[sgd, adam]"),
        "points": ("a=integer(1, 9)", "b=loguniform(0.001, 1)"),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        found = plan(search=search, mode="grid" if name == "cells" else "random")
        store = Store(folder)
        rows = sweep.run(found, store, runner(store, jobs=2))
        pictures = report.draw(folder, found, rows)
        assert [file.name for file in pictures] == ["metric_by_field.png", "heat_map.png"]
        for file in pictures:
            assert np.asarray(Image.open(file).convert("L")).std() > 5


@pytest.mark.slow
def test_a_sweep_that_is_killed_five_times_ends_with_the_table_of_one_that_is_not(tmp_path):
    command = [
        *(sys.executable, "-m", "experiments.sweep", "--config=configs/digits.py:mlp", "-j", "2"),
        *("--config.num_steps=200", "--config.eval_every=100", "--config.checkpoint_every=50"),
        "--search=optimizer.learning_rate=loguniform(1e-4, 1e-1)",
        *("--points=4", "--search=optimizer.name=[sgd, momentum, adam]"),
    ]

    def table(folder):
        lines = (folder / "results.csv").read_text().splitlines()
        rows = [line.split(",") for line in lines]
        seconds = rows[0].index("seconds")
        return [row[:seconds] + row[seconds + 1 :] for row in rows]

    def outcomes(folder):
        return {file.name for file in (folder / "outcomes").glob("*.json")}

    here = {"cwd": ROOT, "env": environment()}
    subprocess.run([*command, f"--workdir={tmp_path / 'alone'}"], check=True, **here)
    folder, rng, finished = tmp_path / "killed", np.random.default_rng(0), {}
    killed = [*command, f"--workdir={folder}"]
    for kill in range(5):
        process = subprocess.Popen(killed, start_new_session=True, **here)
        before = len(outcomes(folder))
        while len(outcomes(folder)) == before and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 4))
        assert process.poll() is None, "the sweep was over before it was killed"
        if kill == 4:
            process.send_signal(signal.SIGTERM)
        elif kill % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        for name in outcomes(folder):
            trial = name.split(".")[0]
            finished[trial] = (folder / "logs" / f"{trial}.txt").read_text()
    last = subprocess.run(killed, check=True, capture_output=True, text=True, **here)
    assert table(folder) == table(tmp_path / "alone")
    assert len(table(folder)) == 1 + 12 and len(finished) >= 4
    for trial, log in finished.items():  # what was done was not started again
        assert (folder / "logs" / f"{trial}.txt").read_text() == log
    assert "python -m experiments.train --config=configs/digits.py:mlp" in last.stdout


@pytest.mark.slow
def test_halving_over_random_points_of_tuples_and_numbers_from_the_command_line(tmp_path):
    command = [
        *(sys.executable, "-m", "experiments.sweep", "--config=configs/digits.py:mlp", "-j", "2"),
        *("--config.num_steps=40", "--halving=2", "--min_steps=10", "--mode=random", "--trials=4"),
        *("--search=model.hidden=[(8,), (16, 16)]", "--search=model.dropout=uniform(0, 0.5)"),
        f"--workdir={tmp_path}",
    ]
    how = {"cwd": ROOT, "env": environment(), "capture_output": True, "text": True}
    found = subprocess.run(command, check=True, **how)
    rows = [line.split(",") for line in (tmp_path / "results.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == [f"{n:03}" for n in range(4)]
    steps = sorted(int(word) for row in rows for word in row if word in ("10", "20", "40"))
    assert steps == [10, 10, 20, 40]
    hidden = json.loads(next(tmp_path.glob("trials/000/config.json")).read_text())
    assert hidden["fields"]["model"]["fields"]["hidden"] in ([8], [16, 16])
    assert "--config.model.hidden=" in found.stdout

"""Validations go on beside training, and a run that has them ends as one that waits for them."""

import dataclasses
import json
import time

import numpy as np
import pytest

from nn_lib.train import fit, memory
from nn_lib.train.run import Run
from nn_lib.train.sharding import MeshConfig
from nn_lib.train.training_log import Diverged
from tests.small_runs import (
    FILES,
    final_leaves,
    kept,
    lines,
    poison,
    small,
    text_experiment,
    watched,
)

pytestmark = pytest.mark.usefixtures("undrawn")


def assert_same_end(one, other):
    for name in FILES:
        assert (one / name).read_text() == (other / name).read_text(), name
    assert kept(one) == kept(other)
    for step in kept(one):
        ours, theirs = final_leaves(one, step), final_leaves(other, step)
        assert ours.keys() == theirs.keys()
        for path, leaf in ours.items():
            np.testing.assert_array_equal(leaf, theirs[path], err_msg=f"{step} {path}")


def test_steps_of_training_go_on_between_the_batches_of_a_validation(tmp_path, monkeypatch):
    seen = watched(monkeypatch)
    fit(small(eval_batch_size=20), tmp_path, quiet=True)  # four batches, after 10 of 20 steps
    assert "".join(seen[:18]) == "t" * 10 + "tetetete"
    # After the last step nothing is left to go on beside: validation, the best one's, and test.
    assert "".join(seen[18:]) == "t" * 6 + "e" * (len(seen) - 24)


@pytest.mark.parametrize(
    "fields",
    [
        {"eval_every": 5, "eval_batch_size": 20},
        {"eval_every": 3, "eval_batch_size": 7, "log_every": 1},  # more batches than steps between
        {"eval_every": 4, "checkpoint_every": 3, "keep_checkpoints": 1, "log_every": 2},
        {"eval_every": 4, "checkpoint_every": 0, "ema_decay": 0.9},
        {"eval_every": 5, "eval_batch_size": 16, "mesh": MeshConfig(2, 2)},
    ],
    ids=["before_the_next", "longer_than_its_turn", "few_kept", "best_only", "four_devices"],
)
def test_a_run_ends_with_the_bits_of_one_that_waits_for_its_validations(tmp_path, fields):
    for overlap in (True, False):
        fit(small(eval_overlap=overlap, **fields), tmp_path / str(overlap), quiet=True)
    assert_same_end(tmp_path / "True", tmp_path / "False")
    steps = [line["step"] for line in lines(tmp_path / "True")]
    assert steps == sorted(steps)


def test_text_is_validated_beside_training_too(tmp_path):
    (tmp_path / "text").write_text("the quick brown fox. " * 40)
    for overlap in (True, False):
        experiment = text_experiment(tmp_path / "text", eval_overlap=overlap, num_steps=12)
        fit(experiment, tmp_path / str(overlap), quiet=True)
    assert_same_end(tmp_path / "True", tmp_path / "False")


def test_the_lines_before_a_divergence_are_written_in_the_order_of_steps(tmp_path, monkeypatch):
    poison(monkeypatch, 13, 14, 15)
    experiment = small(eval_batch_size=5, log_every=1, max_bad_steps=3, checkpoint_every=10)
    with pytest.raises(Diverged):
        fit(experiment, tmp_path, quiet=True)
    found = [(line["step"], line["split"]) for line in lines(tmp_path)]
    steps = [(step, "train") for step in range(1, 17)]
    assert found == [*steps[:10], (10, "validation"), *steps[10:]]
    assert kept(tmp_path) == [10]


def test_where_no_second_state_fits_training_waits(tmp_path, monkeypatch):
    experiment = small(eval_batch_size=20)
    run = Run.prepare(experiment)
    total = memory.analyse(run.train_step, run.initial_state, run.batches.at(0)).total
    monkeypatch.setattr(memory, "available", lambda devices: total + 100)
    seen = watched(monkeypatch)
    fit(experiment, tmp_path / "small", quiet=True)
    assert "".join(seen[:14]) == "t" * 10 + "eeee"
    monkeypatch.undo()
    fit(dataclasses.replace(experiment), tmp_path / "large", quiet=True)
    assert_same_end(tmp_path / "small", tmp_path / "large")


def test_timings_tell_what_an_evaluation_beside_steps_took(tmp_path, monkeypatch):
    experiment = small(eval_batch_size=20, log_every=2)
    fit(experiment, tmp_path / "warm", quiet=True)  # compiled
    good = Run.measuring

    def slow(run, state, split):
        batches = good(run, state, split)
        while True:
            time.sleep(0.05)
            try:
                yield next(batches)
            except StopIteration as end:
                return end.value

    monkeypatch.setattr(Run, "measuring", slow)
    fit(experiment, tmp_path / "run", quiet=True)
    text = (tmp_path / "run" / "timings.jsonl").read_text()
    timings = [json.loads(line) for line in text.splitlines()]
    assert [t["step"] for t in timings if t["event"] == "evaluate"] == [10, 20]
    train = {t["step"]: t for t in timings if t["event"] == "train"}
    assert train[8]["evaluation"] == 0
    assert 0.05 <= train[14]["evaluation"] <= train[14]["step_time"]

"""The watchdog: what hangs is reported once, with every thread's stack; what is slow is not."""

import logging
import threading
import time

import pytest

from nn_lib.data.batches import ExampleBatches
from nn_lib.train import fit, watchdog
from nn_lib.train.checkpoint import Checkpoints
from nn_lib.train.run import Run
from tests.small_runs import small

pytestmark = pytest.mark.usefixtures("undrawn")


def reports(caplog):
    return [r.getMessage() for r in caplog.records if " hangs: " in r.getMessage()]


def sleeping_step(step, seconds):
    """A training step that sleeps in step number `step`."""
    prepare = Run.prepare.__func__

    def prepared(cls, experiment):
        run = prepare(cls, experiment)
        real, count = run.train_step, [0]

        def train_step(state, batch):
            count[0] += 1
            if count[0] == step:
                time.sleep(seconds)
            return real(state, batch)

        train_step.lower = real.lower
        run.train_step = train_step
        return run

    return classmethod(prepared)


def test_a_step_that_sleeps_is_reported_once_with_the_stack_of_every_thread(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(Run, "prepare", sleeping_step(7, seconds=2))
    with caplog.at_level(logging.WARNING, "nn_lib"):
        fit(small(), tmp_path, quiet=True, step_limit=1)
    (report,) = reports(caplog)
    first, *stacks = report.splitlines()
    assert first.startswith("step 7 hangs: computing for ") and "1 s are allowed" in first
    assert "--step_limit" in first
    text = "\n".join(stacks)
    assert "in train_step" in text and "in _train" in text and "watchdog.py" in text
    assert text.count("hread 0x") >= threading.active_count() >= 1
    assert "step 7 goes on after all" in caplog.text


def test_the_first_step_may_compile_ten_times_as_long(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Run, "prepare", sleeping_step(1, seconds=2))
    fit(small(), tmp_path, quiet=True, step_limit=1)
    assert not reports(caplog)


def test_a_batch_that_does_not_come_is_what_the_report_says(tmp_path, monkeypatch, caplog):
    good = ExampleBatches.at
    monkeypatch.setattr(ExampleBatches, "at", lambda s, n: time.sleep(2 * (n == 8)) or good(s, n))
    fit(small(), tmp_path, quiet=True, step_limit=1)
    (report,) = reports(caplog)
    assert report.startswith("step 9 hangs: waiting for its batch for ")


def test_a_restore_and_the_last_evaluation_that_do_not_end_are_reported(
    tmp_path, monkeypatch, caplog
):
    fit(small(num_steps=10), tmp_path, quiet=True)
    restore, measure = Checkpoints.restore_latest, Run.measure

    def slowly(action):
        return lambda *arguments: time.sleep(2) or action(*arguments)

    monkeypatch.setattr(watchdog, "SLOW_FACTOR", 1)
    monkeypatch.setattr(Checkpoints, "restore_latest", slowly(restore))
    monkeypatch.setattr(Run, "measure", slowly(measure))
    fit(small(num_steps=10), tmp_path, quiet=True, step_limit=1)
    said = [report.partition(" for ")[0] for report in reports(caplog)]
    assert said == ["step 0 hangs: restore", "step 10 hangs: evaluate"]


def test_slow_evaluations_and_short_waits_are_not_reported_nor_anything_at_limit_0(caplog):
    for limit in (0.5, 0):
        with watchdog.Watchdog(limit) as dog:
            for what in ("computing", "evaluate", "computing", "computing"):
                dog.begin(what, 3)
                time.sleep(0.9 if what == "evaluate" else 0.01)
    assert not reports(caplog)
    assert all(thread.name != "watchdog" for thread in threading.enumerate())

"""SIGTERM while a validation goes on: the state that it measures is saved, and nothing is lost."""

import dataclasses
import os
import signal

import pytest

from nn_lib.train import fit
from nn_lib.train.checkpoint import Checkpoints
from nn_lib.train.interrupt import Interrupted
from tests.small_runs import FILES, kept, lines, small, watched
from tests.test_processes import Pair, arguments, together
from tests.test_resume import latest, wait_for

pytestmark = pytest.mark.usefixtures("undrawn")


def assert_same_files(one, other):
    for name in FILES:
        assert (one / name).read_text() == (other / name).read_text(), name
    last = kept(one)[-1]
    ours, theirs = (Checkpoints(folder / "checkpoints", read_only=True) for folder in (one, other))
    assert ours.note(last) == theirs.note(last)  # with the checksums of the state


@pytest.mark.parametrize(
    "moment, saved",
    [pytest.param("t10", 5, marks=pytest.mark.slow), ("t13", 10), ("e15", 20)],
)
def test_a_signal_while_one_goes_on_does_not_wait_for_it_and_loses_nothing(
    tmp_path, monkeypatch, moment, saved
):
    """Four batches each, after 5, 10, 15 and, the 13th to 16th batch, 20 steps."""
    experiment = small(eval_batch_size=20, log_every=1, eval_every=5)
    fit(experiment, tmp_path / "alone", quiet=True)

    def disturb(what, number):
        if f"{what}{number}" == moment:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        seen = watched(patch, disturb)
        with pytest.raises(Interrupted, match=f"at step {saved}, saved"):
            fit(experiment, tmp_path / "stopped", quiet=True)
        assert moment in [f"{seen[-n]}{seen.count(seen[-n])}" for n in (1, 2)]  # hardly more
    assert kept(tmp_path / "stopped")[-1] == saved
    fit(experiment, tmp_path / "stopped", quiet=True)
    assert_same_files(tmp_path / "alone", tmp_path / "stopped")


def test_a_signal_while_the_same_one_is_made_up_for_loses_nothing(tmp_path, monkeypatch):
    """Stopped twice in the validation after 10 steps, the second time with nothing else to do."""
    experiment = small(eval_batch_size=20)
    fit(experiment, tmp_path / "alone", quiet=True)
    for moment in ("t12", "e2"):

        def disturb(what, number, moment=moment):
            if f"{what}{number}" == moment:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            watched(patch, disturb)
            with pytest.raises(Interrupted, match="at step 10, saved"):
                fit(experiment, tmp_path / "stopped", quiet=True)
    fit(experiment, tmp_path / "stopped", quiet=True)
    assert_same_files(tmp_path / "alone", tmp_path / "stopped")


def test_a_kill_after_the_line_of_one_that_was_made_up_for_does_not_write_it_twice(
    tmp_path, monkeypatch
):
    """No checkpoint is due with the validation after 10 steps, and it is not the best."""
    experiment = small(eval_batch_size=20, eval_every=5, checkpoint_every=20, select_mode="min")
    fit(experiment, tmp_path / "alone", quiet=True)

    def stop(what, number):
        if (what, number) == ("e", 6):
            os.kill(os.getpid(), signal.SIGTERM)

    class Killed(Exception):
        pass

    def kill(what, number):
        if (what, number) == ("t", 2):
            raise Killed

    for disturb, end in ((stop, Interrupted), (kill, Killed), (kill, Killed)):
        with monkeypatch.context() as patch:
            watched(patch, disturb)
            with pytest.raises(end):
                fit(experiment, tmp_path / "stopped", quiet=True)
        assert kept(tmp_path / "stopped")[-1] == 10
        checkpoints = Checkpoints(tmp_path / "stopped" / "checkpoints", read_only=True)
        assert not checkpoints.note(10)["validated"]
    fit(experiment, tmp_path / "stopped", quiet=True)
    assert_same_files(tmp_path / "alone", tmp_path / "stopped")


def test_a_signal_in_a_validation_of_the_plateau_schedule_is_answered_after_it(
    tmp_path, monkeypatch
):
    """What it finds belongs to the state that is saved."""
    optimizer = dataclasses.replace(small().optimizer, schedule="plateau", patience=1)
    experiment = small(eval_batch_size=20, eval_every=5, optimizer=optimizer)
    fit(experiment, tmp_path / "alone", quiet=True)

    def disturb(what, number):
        if (what, number) == ("e", 6):  # of the validation after 10 steps
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        watched(patch, disturb)
        with pytest.raises(Interrupted, match="at step 10, saved"):
            fit(experiment, tmp_path / "stopped", quiet=True)
    assert lines(tmp_path / "stopped")[-1]["split"] == "validation"
    fit(experiment, tmp_path / "stopped", quiet=True)
    assert_same_files(tmp_path / "alone", tmp_path / "stopped")


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_the_validation_of_both_and_loses_nothing(tmp_path):
    """One that has more batches than there are steps until the next."""
    own = ("--config.eval_every=5", "--config.eval_batch_size=6")
    whole = together(2, 1, *arguments("convnet", tmp_path / "whole", 40), *own)
    assert whole.returncode == 0, whole.stdout
    cut = (*arguments("convnet", tmp_path / "cut", 40), *own)
    pair = Pair(*cut, devices=1)
    wait_for(lambda: latest(tmp_path / "cut") >= 5, pair.processes[0])  # the first is the best
    pair.processes[1].send_signal(signal.SIGTERM)
    outputs = pair.end(60)
    assert {process.returncode for process in pair.processes} == {128 + signal.SIGTERM}, outputs
    saved = latest(tmp_path / "cut")
    checkpoints = Checkpoints(tmp_path / "cut" / "checkpoints", read_only=True)
    assert not checkpoints.note(saved)["validated"]
    rest = together(2, 1, *cut)
    assert rest.returncode == 0, rest.stdout
    assert_same_files(tmp_path / "whole", tmp_path / "cut")

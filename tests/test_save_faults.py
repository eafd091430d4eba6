"""No space left, or a work directory that vanishes: the last checkpoint stays, one line says it."""

import contextlib
import json
import os
import resource
import shutil
import time

import numpy as np
import pytest

from nn_lib.data.bad_examples import BadExample, BadExamples
from nn_lib.data.batches import ExampleBatches
from nn_lib.models import MLP
from nn_lib.train import data_errors, fit
from nn_lib.train.checkpoint import Checkpoints
from nn_lib.train.files import SaveFailed, append, write_atomically
from tests.processes import run, start
from tests.small_runs import final_leaves, lines, small
from tests.test_resume import latest, wait_for

pytestmark = pytest.mark.usefixtures("undrawn")


def wide(**fields):
    """Checkpoints of 600 kB, and 20 steps."""
    return small(model=MLP(hidden=(200, 200)), eval_every=0, **fields)


@contextlib.contextmanager
def files_limited_to(size):
    """As a full disk: no file grows beyond `size` bytes (Python ignores the signal)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def at_batch(monkeypatch, number, action, saved=None):
    """Does something once when a run reads a batch, after the checkpoint `saved` is on disk."""
    good, todo = ExampleBatches.at, [action]

    def at(self, step):
        if step == number and todo:
            while saved and not saved.exists():
                time.sleep(0.01)
            todo.pop()()
        return good(self, step)

    monkeypatch.setattr(ExampleBatches, "at", at)


def assert_equal_ends(ours, theirs):
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    expected = final_leaves(theirs, 20)
    for path, leaf in final_leaves(ours, 20).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(wide(), folder, quiet=True)
    return folder


def test_no_space_for_a_checkpoint_leaves_the_one_before_and_the_run_goes_on_later(
    tmp_path, monkeypatch, undisturbed
):
    with contextlib.ExitStack() as full:
        limit = files_limited_to(100_000)
        before = tmp_path / "checkpoints" / "10"
        at_batch(monkeypatch, 12, lambda: full.enter_context(limit), saved=before)
        with pytest.raises(SaveFailed) as failure:
            fit(wide(), tmp_path, quiet=True)
    said = str(failure.value)
    assert "cannot save the checkpoint of step 15 in" in said and ": File too large; " in said
    assert "that of step 10 is intact, and the same command continues from the last" in said
    assert "\n" not in said
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    checkpoints.read(10)
    checkpoints.close()
    fit(wide(), tmp_path, quiet=True)
    assert_equal_ends(tmp_path, undisturbed)


def test_no_space_for_a_line_is_the_same_and_leaves_no_half_line_after_the_next_start(
    tmp_path, monkeypatch, undisturbed
):
    with contextlib.ExitStack() as full:

        def fill():
            size = (tmp_path / "metrics.jsonl").stat().st_size + 20
            full.enter_context(files_limited_to(size))

        at_batch(monkeypatch, 7, fill)
        with pytest.raises(SaveFailed, match="cannot "):
            fit(wide(checkpoint_every=0), tmp_path, quiet=True)
    fit(wide(checkpoint_every=0), tmp_path, quiet=True)
    assert_equal_ends(tmp_path, undisturbed)


@pytest.mark.parametrize("checkpoint_every", [5, 0])
def test_a_work_directory_that_vanishes_ends_the_run_and_can_be_put_back(
    tmp_path, monkeypatch, undisturbed, checkpoint_every
):
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    experiment = wide(checkpoint_every=checkpoint_every)
    at_batch(monkeypatch, 12, lambda: workdir.rename(elsewhere))
    gone = "vanished|No such file|another folder has taken its place"  # by a save under way
    with pytest.raises(SaveFailed, match=rf"cannot (write|save) .*({gone})"):
        fit(experiment, workdir, quiet=True)
    put_back(elsewhere, workdir)
    fit(experiment, workdir, quiet=True)
    assert_equal_ends(workdir, undisturbed)


def put_back(elsewhere, workdir):
    """As a user does, who removes what a save under way has made anew: parts of a checkpoint.

    In this process the threads of that save may still be writing: until the folder stays away.
    """
    time.sleep(0.5)
    while workdir.exists():
        assert [path.name for path in workdir.iterdir()] == ["checkpoints"]
        shutil.rmtree(workdir, ignore_errors=True)
        time.sleep(0.5)
    elsewhere.rename(workdir)


@pytest.mark.parametrize("removed", [False, True], ids=["moved", "removed"])
def test_a_folder_in_the_place_of_the_work_directory_is_noticed_and_nothing_is_written_to_it(
    tmp_path, monkeypatch, undisturbed, removed
):
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def replace():
        if removed:  # its number in the file system is free for the next folder
            shutil.copytree(workdir, elsewhere)
            shutil.rmtree(workdir)
        else:
            workdir.rename(elsewhere)
        (workdir / "checkpoints").mkdir(parents=True)

    experiment = wide(num_steps=100)
    at_batch(monkeypatch, 12, replace, saved=workdir / "checkpoints" / "10")
    with pytest.raises(
        SaveFailed, match=r"run/.*: another folder has taken its place; put it back"
    ):
        fit(experiment, workdir, quiet=True)
    assert list(workdir.rglob("*")) == [workdir / "checkpoints"]
    put_back(elsewhere, workdir)
    fit(wide(), workdir, quiet=True)
    assert_equal_ends(workdir, undisturbed)


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path):
    file = tmp_path / "summary.json"
    write_atomically(file, "old")
    with files_limited_to(1000), pytest.raises(SaveFailed, match=r"summary.json': .*(large|space)"):
        write_atomically(file, "new" * 1000)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_no_space_for_a_bad_example_is_said_in_the_same_way(tmp_path):
    bad = BadExamples("photographs", 5)
    data_errors.remember(bad, tmp_path)
    with files_limited_to(20), pytest.raises(SaveFailed, match=r"bad_examples.jsonl': .*(lar|spa)"):
        bad.add([BadExample("train", 3, "a.jpg", "it is cut off in the middle")])
    data_errors.remember(BadExamples("photographs", 5), tmp_path)  # the next start
    assert (tmp_path / "bad_examples.jsonl").read_text() == ""


def test_a_line_that_does_not_fit_leaves_no_half_of_it(tmp_path):
    file = tmp_path / "timings.jsonl"
    append(file, {"step": 1})
    before = file.read_text()
    with files_limited_to(len(before) + 5), pytest.raises(SaveFailed, match=r"timings\.jsonl"):
        append(file, {"step": 2})
    assert file.read_text() == before
    append(file, {"step": 3})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 3]


def test_lines_are_on_disk_before_the_checkpoint_that_follows_them(tmp_path, monkeypatch):
    """A machine that loses its power keeps no line that only its memory had."""
    on_disk, saved = {}, {}
    fsync, save = os.fsync, Checkpoints.save

    def watched_fsync(descriptor):
        fsync(descriptor)
        on_disk[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    def watched_save(self, step, *rest):
        metrics = (tmp_path / "metrics.jsonl").stat()
        saved[step] = metrics.st_size - on_disk[metrics.st_ino], lines(tmp_path)[-1]["step"]
        save(self, step, *rest)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Checkpoints, "save", watched_save)
    fit(small(eval_every=0), tmp_path, quiet=True)
    assert saved == {step: (0, step) for step in (5, 10, 15, 20)}


@pytest.mark.slow
def test_on_the_command_line_it_is_one_line_and_status_74(tmp_path):
    arguments = [
        "--config=configs/mnist1d.py:mlp",
        f"--workdir={tmp_path}",
        *("--config.num_steps=40", "--config.eval_every=0", "--config.checkpoint_every=10"),
        "--config.model.hidden=(200, 200)",
        *("--config.optimizer.decay_steps=40", "--compilation_cache="),
    ]
    first = run("train", *arguments, "--config.num_steps=20")
    assert first.returncode == 0, first.stderr
    with files_limited_to(100_000):  # the child inherits it
        full = run("train", *arguments)
    assert full.returncode == 74
    headline, memory, *said = full.stderr.strip().splitlines()
    assert "resumes at step 20" in headline and memory.startswith("memory of a device: ")
    assert len(said) == 1 and said[0].startswith("experiments.train: cannot save the checkpoint")
    again = run("train", *arguments)
    assert again.returncode == 0 and "resumes at step 20" in again.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 40


@pytest.mark.slow
def test_a_work_directory_that_vanishes_amid_a_save_ends_the_run_at_once(tmp_path):
    def arguments(workdir):
        return [
            "--config=configs/mnist1d.py:mlp",
            f"--workdir={workdir}",
            *("--config.num_steps=3000", "--config.eval_every=0", "--config.checkpoint_every=20"),
            *("--config.log_every=10", "--config.model.hidden=(500, 500)"),
            "--config.optimizer.schedule=constant",
        ]

    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    disturbed = start("train", *arguments(workdir))
    tmp = "*.orbax-checkpoint-tmp"
    wait_for(lambda: latest(workdir) >= 40 and any((workdir / "checkpoints").glob(tmp)), disturbed)
    workdir.rename(elsewhere)
    _, said = disturbed.communicate(timeout=30)
    assert disturbed.returncode == 74, said
    last = said.strip().splitlines()[-1]
    assert len(said.strip().splitlines()) == 3 and "experiments.train: cannot write" in last, said
    put_back(elsewhere, workdir)
    ends = []
    for folder in (workdir, tmp_path / "whole"):
        done = run("train", *arguments(folder), "--config.num_steps=200")
        assert done.returncode == 0, done.stderr
        ends.append(((folder / "metrics.jsonl").read_bytes(), final_leaves(folder, 200)))
    assert ends[0][0] == ends[1][0]
    for path, leaf in ends[0][1].items():
        np.testing.assert_array_equal(leaf, ends[1][1][path], err_msg=path)

"""What a long run tells about itself: where its time goes, a trace, whole lines after any kill."""

import itertools
import json
import os
import time
import types

import pytest

from nn_lib.checks import UserError
from nn_lib.data.batches import ExampleBatches
from nn_lib.train import fit, tracing
from nn_lib.train.checkpoint import Checkpoints
from nn_lib.train.training_log import TrainingLog
from tests.small_runs import lines, small

pytestmark = pytest.mark.usefixtures("undrawn")


def train_timings(workdir):
    found = [json.loads(line) for line in (workdir / "timings.jsonl").read_text().splitlines()]
    return [line for line in found if line["event"] == "train"]


def test_a_starved_input_pipeline_shows_in_the_timings_and_is_said(tmp_path, monkeypatch, capsys):
    good = ExampleBatches.at
    monkeypatch.setattr(ExampleBatches, "at", lambda s, n: time.sleep(0.06) or good(s, n))
    fit(small(num_steps=15, eval_every=0), tmp_path)
    line = train_timings(tmp_path)[-1]
    assert 0.04 <= line["data_wait"] < line["step_time"] < 2 * line["data_wait"]
    assert line["step_time"] * line["steps_per_second"] == pytest.approx(1, abs=1e-3)
    assert capsys.readouterr().err.count("of the time is spent waiting for batches") == 1


class Result:
    """Of a device that takes `seconds` for a step, one after the other."""

    free = 0.0

    def __init__(self, seconds):
        Result.free = self.ready = max(time.monotonic(), Result.free) + seconds

    def is_ready(self):
        return time.monotonic() >= self.ready

    def block_until_ready(self):
        time.sleep(max(0.0, self.ready - time.monotonic()))


@pytest.mark.parametrize("data, idle", [(0.04, 0.0), (0.12, 0.03), (0.18, 0.09)])
def test_waiting_for_data_is_counted_from_when_the_device_has_nothing_left_to_do(data, idle):
    """Steps of 90 ms. Of a batch that takes 120 the device waits for 30, not for all of it."""
    Result.free = 0.0
    quiet = types.SimpleNamespace(begin=lambda *_: None)
    log = TrainingLog(None, None, None, 0, quiet)

    def slow():
        while True:
            time.sleep(data)
            yield {}

    for step, _ in log.batches(slow()):
        if step == 3:  # the first ones are all waited for
            log._data_wait = 0.0
        if step == 13:
            break
        log.dispatched({"bad_steps": Result(0.09)})
    log.close()
    assert idle - 0.01 <= log._data_wait / 10 <= idle + 0.04  # on a busy machine


def test_data_that_is_there_in_time_is_not_waited_for_and_a_slow_disk_shows(tmp_path, monkeypatch):
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *a: time.sleep(0.1) or save(*a))
    fit(small(num_steps=15), tmp_path, quiet=True)
    line = train_timings(tmp_path)[-1]  # steps 11 to 15, after the checkpoint of step 10
    assert line["data_wait"] < 0.01
    assert line["checkpoint_wait"] > 0.1


def test_a_profile_names_the_ten_costliest_operations_and_where_they_come_from(tmp_path, capsys):
    fit(small(num_steps=12), tmp_path, profile=tracing.Steps(6, 10))
    said = capsys.readouterr().err.splitlines()
    (begin,) = [n for n, line in enumerate(said) if "4 steps from step 6 on" in line]
    assert said[begin + 1].split() == ["share", "ms", "a", "step", "operation"]
    shares = [float(line.split("%")[0]) for line in said[begin + 2 : begin + 13]]
    assert shares[:10] == sorted(shares[:10], reverse=True) and sum(shares) == pytest.approx(100, 1)
    assert any("MLP/Dense_" in line or "(MLP)/Dense_" in line for line in said[begin:])
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_profile_that_the_run_ends_within_is_written_too(tmp_path, capsys):
    fit(small(num_steps=7, eval_every=0), tmp_path, profile=tracing.Steps(6, 100))
    assert "2 steps from step 6 on" in capsys.readouterr().err


def test_a_profile_of_steps_that_the_run_does_not_take_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"profile from step 30 on .* ends at step 20"):
        fit(small(), tmp_path, profile=tracing.Steps(30, 40))


@pytest.mark.parametrize("start", [3, 10])
def test_a_run_that_continues_past_its_profile_says_so_and_goes_on(tmp_path, capsys, start):
    fit(small(num_steps=10), tmp_path, quiet=True)
    summary = fit(small(num_steps=15), tmp_path, profile=tracing.Steps(start, start + 2))
    assert summary["steps"] == 15
    assert f"no trace: the run is past step {start}, where it" in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("text", ["5", "5:5", "7:5", "0:5", "a:b", "1:2:3", "-1:4"])
def test_a_profile_is_two_steps(text):
    with pytest.raises(UserError, match="profile expects START:STOP"):
        tracing.Steps.parse(text)


def test_an_operation_is_charged_for_its_own_time_only():
    """`loop` lasts 100 ns and calls `a` (30), which calls `b` (10); `c` follows for 5."""
    events = [(0, -100, "loop"), (10, -30, "a"), (20, -10, "b"), (100, -5, "c")]
    found = tracing._own_seconds(events)
    expected = {"loop": 70e-9, "a": 20e-9, "b": 10e-9, "c": 5e-9}
    assert found == pytest.approx(expected)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the library catches it."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(small(num_steps=12, eval_every=4, log_every=2), folder, quiet=True)
    return (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("name", "deadly"),
    [
        ("metrics.jsonl", {2: 0.5, 6: 0.0, 12: 1.0}),
        ("metrics.jsonl", {2: 1.0, 6: 0.5, 12: 0.0}),
        ("timings.jsonl", {2: 0.0, 6: 1.0, 12: 0.5}),
    ],
)
def test_a_kill_in_any_line_leaves_whole_lines_and_each_once(
    tmp_path, monkeypatch, undisturbed, name, deadly
):
    """Killed before a line, after half of it and after it, as told; a resume in between."""
    experiment = small(num_steps=12, eval_every=4, log_every=2)
    real, count = os.write, itertools.count()

    def write(descriptor, content):
        ours = os.readlink(f"/proc/self/fd/{descriptor}").endswith(name)
        if ours and (line := next(count)) in deadly:
            real(descriptor, content[: int(deadly[line] * len(content))])
            raise Killed
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", write)
    kills = 0
    for _ in range(len(deadly) + 1):
        try:
            fit(experiment, tmp_path, quiet=True)
            break
        except Killed:
            kills += 1
    assert kills == len(deadly)
    assert (tmp_path / "metrics.jsonl").read_bytes() == undisturbed
    steps = [(line["step"], line["split"]) for line in lines(tmp_path)]
    assert len(steps) == len(set(steps))
    assert train_timings(tmp_path)  # every line of it can be read


def test_a_kill_between_a_checkpoint_and_the_next_line_repeats_nothing(
    tmp_path, monkeypatch, undisturbed
):
    experiment = small(num_steps=12, eval_every=4, log_every=2)
    save = Checkpoints.save

    def save_and_die(self, step, *rest):
        save(self, step, *rest)
        self.wait()
        raise Killed

    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Checkpoints, "save", save_and_die)
            fit(experiment, tmp_path, quiet=True)
    fit(experiment, tmp_path, quiet=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == undisturbed

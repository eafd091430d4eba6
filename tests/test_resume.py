"""Runs that are killed end with the bits of a run that never was."""

import json
import random
import signal
import time

import numpy as np
import pytest

from nn_lib.train.checkpoint import Checkpoints
from tests.processes import run, start


def arguments(workdir):
    """A recurrent net whose state is carried from window to window, with dropout."""
    return [
        "--config=configs/char_lm.py:lstm",
        f"--workdir={workdir}",
        "--config.model.cell.features=24",
        "--config.model.dropout=0.1",
        "--config.data.sequence_length=12",
        "--config.num_steps=400",
        "--config.checkpoint_every=20",
        "--config.eval_every=60",
        "--config.log_every=10",
        "--config.eval_batch_size=64",
    ]


def latest(workdir):
    steps = [int(f.name) for f in (workdir / "checkpoints").glob("*") if f.name.isdigit()]
    return max(steps, default=0)


def wait_for(condition, process, timeout=90):
    end = time.monotonic() + timeout
    while process.poll() is None and not condition():
        assert time.monotonic() < end, "the run never came so far"
        time.sleep(0.001)
    return process.poll() is None


def kill_between_steps(process, workdir, rng):
    """SIGKILL at a random moment after the run has made some progress."""
    before = latest(workdir)
    wait_for(lambda: latest(workdir) > before, process)
    time.sleep(rng.uniform(0, 1.0))
    process.kill()


def kill_during_a_save(process, workdir, rng):
    """SIGKILL while a checkpoint is being written."""
    before = latest(workdir)
    folder = workdir / "checkpoints"
    wait_for(lambda: latest(workdir) > before, process)
    if wait_for(lambda: any(folder.glob("*.orbax-checkpoint-tmp")), process):
        process.kill()
    assert any(folder.glob("*.orbax-checkpoint-tmp")), "the kill came too late"


def terminate(process, workdir, rng):
    """SIGTERM: the run saves, says so, and ends with 128 + 15."""
    before = latest(workdir)
    wait_for(lambda: latest(workdir) > before, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "stopped by SIGTERM at step" in err and "the same command continues" in err
    assert "Traceback" not in err


def outcome(workdir):
    """Everything that must not depend on kills."""
    summary = json.loads((workdir / "summary.json").read_text())
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        leaves, note = checkpoints.read(summary["steps"])
    finally:
        checkpoints.close()
    return leaves, note, (workdir / "metrics.jsonl").read_bytes(), summary


def assert_same(ours, theirs):
    for path, leaf in theirs[0].items():
        np.testing.assert_array_equal(np.asarray(ours[0][path]), np.asarray(leaf), err_msg=path)
    assert ours[1] == theirs[1]  # best step, config, vocabulary, checksums
    assert ours[2] == theirs[2]  # metrics.jsonl
    assert ours[3] == theirs[3]  # summary.json


def campaign(tmp_path, faults, seed):
    rng = random.Random(seed)
    whole = start("train", *arguments(tmp_path / "whole"))  # meanwhile, on the other core
    survived = 0
    for fault in faults:
        process = start("train", *arguments(tmp_path / "killed"))
        fault(process, tmp_path / "killed", rng)
        process.communicate(timeout=60)
        survived += process.returncode != 0
    assert survived >= len(faults) - 1, "the run ended before it could be killed"
    rest = run("train", *arguments(tmp_path / "killed"))
    assert rest.returncode == 0, rest.stderr
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    assert_same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    """`make faults` does so hundreds of times to a convolutional net, with more kinds of faults."""
    faults = [kill_between_steps, kill_during_a_save, terminate, kill_between_steps]
    campaign(tmp_path, faults, seed=7)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.slow
def test_training_resumes_before_a_damaged_checkpoint_and_says_so(tmp_path):
    whole = start("train", *arguments(tmp_path / "whole"))
    process = start("train", *arguments(tmp_path / "cut"))
    terminate(process, tmp_path / "cut", None)
    damaged = latest(tmp_path / "cut")
    state = tmp_path / "cut" / "checkpoints" / str(damaged) / "state"
    files = sorted((f for f in state.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    files[-1].write_bytes(files[-1].read_bytes()[:-7])
    flip_a_bit(files[-2])
    rest = run("train", *arguments(tmp_path / "cut"))
    assert rest.returncode == 0, rest.stderr
    assert f"checkpoint {damaged} " in rest.stderr
    assert "falling back to the one before it" in rest.stderr
    assert "Traceback" not in rest.stderr
    whole.communicate(timeout=300)
    assert_same(outcome(tmp_path / "cut"), outcome(tmp_path / "whole"))

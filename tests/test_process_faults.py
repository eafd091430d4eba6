"""A disk that fails one of two processes only: both end soon, or fall back to the same step."""

import re
import resource
import shutil
import time

import numpy as np
import pytest

from tests.small_runs import final_leaves
from tests.test_processes import Pair, together
from tests.test_resume import latest, wait_for

pytestmark = pytest.mark.slow


ZSTANDARD = bytes.fromhex("28b52ffd")  # how each compressed array begins


def arguments(workdir, steps):
    """A run whose checkpoints have some 100 kB of each of two processes."""
    return [
        "experiments.train",
        "--config=configs/digits.py:mlp",
        f"--workdir={workdir}",
        f"--config.num_steps={steps}",
        "--config.model.hidden=(256, 256)",
        "--config.mesh.fsdp=2",
        "--config.optimizer.schedule=constant",
        "--config.checkpoint_every=20",
        "--config.eval_every=0",
        "--config.log_every=10",
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A work directory after 80 steps, with the checkpoints of 60 and 80."""
    workdir = tmp_path_factory.mktemp("whole")
    done = together(2, 1, *arguments(workdir, 80))
    assert done.returncode == 0, done.stdout
    return workdir


def assert_equal_ends(ours, theirs):
    assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    expected = final_leaves(theirs, 80)
    for path, leaf in final_leaves(ours, 80).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


@pytest.mark.parametrize("index", [0, 1])
def test_no_space_for_one_process_ends_both_and_the_restart_continues_exactly(
    tmp_path, index, undisturbed
):
    pair = Pair(*arguments(tmp_path, 80), devices=1)
    wait_for(lambda: latest(tmp_path) >= 20, pair.processes[0])
    limit = (20_000, resource.RLIM_INFINITY)  # as a full disk: no file grows beyond it
    resource.prlimit(pair.processes[index].pid, resource.RLIMIT_FSIZE, limit)
    began = time.monotonic()
    outputs = pair.end(60)
    assert time.monotonic() - began < 30
    assert [process.returncode for process in pair.processes] == [74, 74], outputs
    last = latest(tmp_path)
    for which, output in enumerate(outputs):
        said = [line for line in output.splitlines() if line.startswith("experiments.train: ")]
        reason = "File too large" if which == index else "another process could not write its part"
        assert len(said) == 1 and re.search(
            rf"cannot save .* of step {last + 20} .*: {reason}; that of step {last} is intact",
            said[0],
        ), output
        assert "Traceback" not in output and "fatal" not in output.lower(), output
    rest = together(2, 1, *arguments(tmp_path, 80))
    assert rest.returncode == 0 and f"resumes at step {last}," in rest.stdout, rest.stdout
    assert_equal_ends(tmp_path, undisturbed)


@pytest.mark.parametrize("index", [0, 1])
def test_damage_that_one_process_reads_lets_both_fall_back_to_the_same_step(
    tmp_path, index, undisturbed
):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    parts = workdir / "checkpoints" / "80" / "state" / f"ocdbt.process_{index}" / "d"
    largest = max(parts.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    frames = [found.start() for found in re.finditer(re.escape(ZSTANDARD), content)]
    sizes = np.diff([*frames, len(content)])
    begin = frames[np.argmax(sizes)]  # the rows of a kernel that this process alone holds
    content[begin : begin + 4] = bytes(4)
    largest.write_bytes(content)
    rest = together(2, 1, *arguments(workdir, 100))
    assert rest.returncode == 0, rest.stdout
    assert rest.stdout.count("falling back to the one before it") == 1  # the first process says it
    by_another = "checkpoint 80 cannot be read by another process" in rest.stdout
    assert by_another == (index == 1), rest.stdout
    assert "resumes at step 60," in rest.stdout
    assert (workdir / "damaged_checkpoints" / "80").is_dir() and latest(workdir) == 100


def test_a_summary_that_the_first_process_cannot_write_ends_both_with_its_status(
    tmp_path, undisturbed
):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    (workdir / "summary.json").unlink()
    (workdir / "summary.json").mkdir()
    pair = Pair(*arguments(workdir, 80), devices=1)
    outputs = pair.end(60)
    assert [process.returncode for process in pair.processes] == [74, 74], outputs
    for output, reason in zip(outputs, ("summary.json': Is a directory", "process 0 could not")):
        (said,) = [line for line in output.splitlines() if line.startswith("experiments.train: ")]
        assert reason in said and "Traceback" not in output, output

"""Worker processes that read images: any number gives the same, and none is left behind."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nn_lib.checks import UserError
from nn_lib.data import control_groups, load, workers
from nn_lib.data.batches import evaluation_batches, prefetch, training_batches
from tests.image_sets import contents, cropped
from tests.imagenet_layout import prepare
from tests.processes import ROOT, environment


@pytest.mark.slow
def test_batches_are_the_same_for_any_number_of_workers(photographs):
    name = {"name": "imagenet2012"}
    alone = load(cropped(photographs, **name))
    wanted = contents(prefetch(training_batches(alone, 10, 0), 2, 7))
    measured = contents(evaluation_batches(alone, "validation", 4))
    for count in (1, 3):
        data = load(cropped(photographs, workers=count, **name))
        assert contents(prefetch(training_batches(data, 10, 0), 2, 7)) == wanted
        assert contents(evaluation_batches(data, "validation", 4)) == measured
        assert set(data.split("train").bad.found) == set(alone.split("train").bad.found)


@pytest.mark.parametrize(
    ("share", "count"),
    [("250000 100000", 3), ("50000 100000", 1), ("max 100000", 16), ("9900000 100000", 16)],
)
@pytest.mark.parametrize("group", ["", "job_7", "job_7/step_0/task_1"])
def test_a_containers_share_of_the_processors_bounds_the_workers(
    tmp_path, monkeypatch, share, count, group
):
    """The share of any of the groups that the process is in."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(control_groups, "ROOT", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
    assert workers.cores() == 16
    (tmp_path / "groups" / "job_7" / "step_0" / "task_1").mkdir(parents=True)
    (tmp_path / "own").write_text("4:cpu:/x\n0::/job_7/step_0/task_1\n")
    assert workers.cores() == 16
    (tmp_path / "groups" / group / "cpu.max").write_text(share + "\n")
    assert workers.cores() == count


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_what_to_do(photographs):
    batches = prefetch(training_batches(load(cropped(photographs, workers=1)), 8, 0), 0, 1000)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(UserError, match=r"was killed, as when memory runs out.*data.workers=0"):
        list(batches)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_while_workers_start_saves_the_run(tmp_path, number):
    prepare("imagenette", tmp_path / "photographs")
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.workers_run", tmp_path],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not _workers_of(run.pid):
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        os.killpg(run.pid, number)
        _, said = run.communicate(timeout=300)
        assert run.returncode == 128 + number, said
        assert "the same command continues" in said and "leaked" not in said
        assert [file.name for file in (tmp_path / "run/checkpoints").iterdir() if file.is_dir()]
    finally:
        run.kill()


def _workers_of(number: int) -> list[int]:
    """The processes that multiprocessing has started for the process of this number."""
    found = []
    for file in Path(f"/proc/{number}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def run_script(folder, text):
    """A user's script, to its end."""
    script = folder / "script.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, script],
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
def test_a_script_that_every_worker_runs_again_is_told_so(tmp_path):
    found = run_script(
        tmp_path,
        "from nn_lib.data.workers import read_ahead\n"
        "import numpy as np\n"
        "list(read_ahead(np.ones, 1, 9, workers=2))\n",
    )
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("nn_lib.checks.UserError: a worker process that reads the data ended")
    assert 'under `if __name__ == "__main__":`' in last


@pytest.mark.slow
def test_a_mistake_amid_reading_leaves_nothing_behind(tmp_path):
    found = run_script(
        tmp_path,
        "import numpy as np\n"
        "from nn_lib.data.workers import read_ahead\n"
        'if __name__ == "__main__":\n'
        "    items = read_ahead(np.zeros, 10**5, 10**6, workers=3)\n"
        "    for _ in range(7):\n"
        "        assert len(next(items))\n"
        '    raise SystemExit("a mistake")\n',
    )
    assert (found.returncode, found.stderr) == (1, "a mistake\n")


@pytest.mark.slow
def test_workers_leave_when_the_batches_are_closed(photographs):
    batches = prefetch(training_batches(load(cropped(photographs, workers=2)), 8, 0), 0, 1000)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()

"""The fault campaign itself: what it injects, what it counts, and a small one."""

import subprocess
import sys

import pytest

from tests.processes import ROOT, environment

# `experiments.faults` does the imports that its forks need: kept out of this process.


def campaign(*options, timeout=570):
    return subprocess.run(
        [sys.executable, "-m", "experiments.faults", *options],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def assert_nothing_lost(done, count):
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    last = [cell.strip() for cell in done.stdout.strip().splitlines()[-1].split("|")[1:-1]]
    assert last[:2] == ["all", str(count)] and last[4:] == ["0", "0"]
    assert int(last[2]) + int(last[3]) == count


@pytest.mark.slow
def test_nothing_is_lost_nor_silently_wrong_in_one_process():
    done = campaign("--count=18", "--seed=1", "--two=0")
    assert_nothing_lost(done, 18)
    assert "seed " in done.stdout  # every fault can be repeated


@pytest.mark.slow
def test_nothing_is_lost_nor_silently_wrong_in_two_processes():
    done = campaign("--count=4", "--seed=2", "--two=1", "--kinds=kill,SIGTERM")
    assert_nothing_lost(done, 4)


def test_an_unknown_kind_of_fault_is_named():
    done = campaign("--kinds=kil")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--kinds 'kil' is unknown; did you mean kill" in done.stderr

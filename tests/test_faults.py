"""The fault campaign itself: what it injects, what it counts, and a small one."""

import subprocess
import sys
import types

import pytest

from tests.processes import ROOT, environment

# `experiments.faults` does the imports that its forks need: a campaign runs in another process.


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
    done = campaign("--count=6", "--seed=1", "--two=0", "--jobs=1")  # one of each kind
    assert_nothing_lost(done, 6)
    assert "seed " in done.stdout  # every fault can be repeated


@pytest.mark.slow
def test_nothing_is_lost_nor_silently_wrong_in_two_processes():
    done = campaign("--count=2", "--seed=2", "--two=1", "--kinds=bit flip,SIGTERM", "--jobs=1")
    assert_nothing_lost(done, 2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--kinds=kil", "--kinds 'kil' is unknown; did you mean kill"),
        ("--again=kill 7", "--again expects KIND,PROCESSES,SEED, got 'kill 7'"),
        ("--again=kil,1,7", "--again 'kil' is unknown; did you mean kill"),
        ("--jobs=0", "--jobs must be at least 1"),
        ("--page=missing.md", "--page 'missing.md' is no file"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys, option, message):
    from experiments import faults

    monkeypatch.setattr(sys, "argv", ["faults", option])
    assert faults.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("experiments.faults: ") and message in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_fault_is_repeated_by_its_seed():
    done = campaign("--again=kill in a save,1,7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("kill in a save, 1 process, seed 7: identical")


KILLED, ENDED = (-9, ""), (0, "")
NONE_INTACT = "experiments.train: none of the checkpoints in 'w' is intact (steps 8, 16)"


@pytest.mark.parametrize(
    "allowed, runs, same, outcome",
    [
        ("any", [KILLED, ENDED], True, "identical"),
        ("any", [KILLED, ENDED], False, "silently wrong"),
        ("any", [KILLED, KILLED, ENDED], True, "identical"),  # the restart is killed too
        ("any", [KILLED, KILLED, ENDED], False, "silently wrong"),
        ("any", [KILLED, (1, "Traceback")], True, "lost"),
        ("any", [KILLED, (2, NONE_INTACT)], False, "stopped with a documented error"),
        ("any", [KILLED, (2, NONE_INTACT + "\nTraceback")], False, "lost"),
        ("any", [KILLED, (2, "unknown flag --worrkdir")], False, "lost"),
        ("any", [KILLED, (None, "")], False, "lost"),  # the second start hangs
        ("any", [(None, "")], False, "lost"),
        ((0, 143), [(143, ""), ENDED], True, "identical"),
        ((0, 143), [(-15, ""), ENDED], True, "lost"),  # SIGTERM was not handled
        ((0, 143), [(143, "Traceback"), ENDED], True, "lost"),
        ((0, 143), [(143, "", -9), ENDED], True, "lost"),  # the other process did not end
        ((0, -15), [(-15, "", 75), ENDED], True, "identical"),  # it had lost its peer
        ((0, 74), [(74, "cannot write 'metrics.jsonl'", -9), ENDED], True, "identical"),
        ((0, 74), [(74, "cannot write 'metrics.jsonl'", 1), ENDED], True, "lost"),
        ((0, 74), [(74, "cannot save the checkpoint of step 8", 0), ENDED], True, "identical"),
        ((0, 74), [(74, "something else"), ENDED], True, "lost"),
        ((0, 74), [(2, NONE_INTACT), ENDED], True, "lost"),
        (None, [ENDED], True, None),  # over before its fault: another is tried
        (None, [(1, "")], True, "lost"),  # it failed by itself
        (None, [ENDED], False, "lost"),
    ],
)
def test_what_became_of_a_run_is_judged_by_how_it_ended(
    tmp_path, monkeypatch, allowed, runs, same, outcome
):
    from experiments import fault_kinds, faults

    ends = iter(runs)

    def start(campaign, workdir, processes):
        status, said, *others = next(ends)
        statuses = dict(enumerate([status, *others]))
        return types.SimpleNamespace(wait=lambda: status, said=lambda: said, statuses=statuses)

    allowed = fault_kinds.ANY if allowed == "any" else allowed
    monkeypatch.setattr(faults.Campaign, "start", start)
    monkeypatch.setattr(faults, "digest", lambda workdir: {"leaf a": "1" if same else "2"})
    monkeypatch.setitem(faults.KINDS, "kill", lambda *_: allowed)
    monkeypatch.setattr(faults, "KILLED_TOO", float(len(runs) == 3))
    monkeypatch.setattr(faults, "kill", lambda *_: fault_kinds.ANY)
    campaign = faults.Campaign(tmp_path, {1: ({"leaf a": "1"}, 1.0)})
    found = faults.inject(campaign, "kill", 1, 7)
    assert (found and found["outcome"]) == outcome

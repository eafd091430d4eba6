"""Which errors say that another process has ended: what the libraries really said, and others."""

import subprocess
import sys

import jax
import pytest

from experiments import launch, peers
from tests.processes import ROOT, environment

GONE = [
    "UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection "
    "closed by peer [127.0.0.1]:33706",
    "INTERNAL: Error dispatching computation: Error dispatching computation: Gloo all-reduce "
    "failed: [external/gloo/gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:18076: "
    "Connection reset by peer",
    "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection "
    "closed by peer [127.0.0.1]:7304",
    "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat "
    "timeout. This indicates that the remote task has failed, got preempted, or crashed "
    "unexpectedly. Check the task logs for an earlier error or scheduler events to debug further.",
    "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was "
    "preempted/died/restarted unexpectedly or this task is experiencing network issues.",
    "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\nThe tasks "
    "have crashed. Check the task logs for an earlier error",
]
OTHERS = [
    "RESOURCE_EXHAUSTED: Out of memory allocating 80000000000 bytes",
    "INVALID_ARGUMENT: Executable expected parameter 0 of size 16 but got buffer of size 4",
    "UNKNOWN: Gloo all-reduce failed: [enforce fail at external/gloo/gloo/transport/tcp/pair.cc:"
    "459] op.preamble.length <= op.nbytes. 2 vs 0. Received data size doesn't match expected size.",
    "peer",
]


@pytest.mark.parametrize("text", GONE)
def test_a_lost_peer_is_known_by_what_the_libraries_say(text):
    assert peers.gone(jax.errors.JaxRuntimeError(text))


@pytest.mark.parametrize("text", OTHERS)
def test_other_errors_are_not_laid_to_a_peer(text):
    assert not peers.gone(jax.errors.JaxRuntimeError(text))


def test_a_lost_peer_is_seen_behind_the_error_of_a_save():
    try:
        try:
            raise ValueError(GONE[3])
        except ValueError as error:
            raise RuntimeError("cannot save the checkpoint of step 20") from error
    except RuntimeError as error:
        assert peers.gone(error)


@pytest.mark.slow
@pytest.mark.parametrize("debug", [False, True])
def test_a_main_ends_in_one_line_and_a_status_of_its_own(debug):
    join = f"jax.distributed.initialize('127.0.0.1:{launch.free_port()}', 1, 0)"
    script = (
        "import jax\n"
        "from experiments import command_line\n"
        "def main():\n"
        f"    raise jax.errors.JaxRuntimeError({GONE[0]!r})\n"
        f"command_line.run(main, required=(), join=lambda: {join})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"--debug={debug}"],
        cwd=ROOT,
        env=environment(JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == peers.STATUS == 75, done.stderr
    assert done.stderr.splitlines()[-1].endswith(peers.LINE)
    assert ("Traceback" in done.stderr) == debug
    assert debug or len(done.stderr.splitlines()) == 1, done.stderr

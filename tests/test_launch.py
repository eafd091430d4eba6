"""The local launcher, with commands that end at once or never."""

import os
import signal
import subprocess
import sys
import time

from tests.processes import ROOT, run, start


def script(text: str, *options):
    return (*options, "--", sys.executable, "-c", text)


def test_every_process_knows_its_number_and_its_peers():
    names = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "XLA_FLAGS"
    text = f"import os; print(*(os.environ[name] for name in {names}))"
    done = run("launch", *script(text, "-n", 3, "--devices-per-process=2"))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in sorted(done.stdout.splitlines())]
    assert [line[0] for line in lines] == ["[0]", "[1]", "[2]"]
    assert [line[3] for line in lines] == ["0", "1", "2"]
    assert len({line[1] for line in lines}) == 1  # one coordinator
    assert all(line[2] == "3" for line in lines)
    assert all("--xla_force_host_platform_device_count=2" in line for line in lines)


def test_the_first_failure_ends_all_with_its_status():
    text = (
        "import os, signal, sys, time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "sys.exit(7) if os.environ['JAX_PROCESS_ID'] == '1' else time.sleep(300)"
    )
    began = time.monotonic()
    done = run("launch", *script(text, "-n", 3))
    assert done.returncode == 7
    assert time.monotonic() - began < 20


def test_a_killed_process_is_a_failure():
    text = "import os, time; os.environ['JAX_PROCESS_ID'] == '0' and os.kill(os.getpid(), 9)"
    assert run("launch", *script(text, "-n", 2)).returncode == 128 + signal.SIGKILL


def test_ctrl_c_reaches_every_process_once_and_what_they_started_ends():
    text = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('saved'), sys.exit(130)))\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        "print('ready', child.pid)\n"
        "time.sleep(300)"
    )
    process = start("launch", *script(text, "-n", 2))
    children = [int(process.stdout.readline().split()[2]) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]
    for child in children:
        assert not alive(child)


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_mistakes_of_the_launcher_are_one_line():
    for arguments, message in (
        (("-n", "2"), "there is no command"),
        (("-n", "0", "--", "true"), "-n must be at least 1"),
        (("-n", "x", "--", "true"), "invalid int value"),
        (("-n", "2", "--", "./missing"), "cannot be started"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "experiments.launch", *arguments],
            cwd=ROOT,
            env=dict(os.environ),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and message in done.stderr, done
        assert len(done.stderr.splitlines()) == 1

"""The local launcher, with commands that end at once or never."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import ROOT, run, start


@pytest.fixture(autouse=True, scope="module")
def terminal_that_can_end():
    """Under nohup the tests would hand on that SIGHUP is to be ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


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


@pytest.mark.parametrize(
    "ends, status",
    [((74, 143), 74), ((143, 143), 143), ((0, 0), 0), ((74,), 74), ((143, 75), 75)],
)
def test_a_save_that_fails_after_a_signal_is_the_status_and_nobody_is_waited_for(ends, status):
    """That of a process which ends last, too; one beside a 74 waits for ever, for that one."""
    text = (
        "import os, signal, sys, time\n"
        f"ends = {ends}\n"
        "code = ends[int(os.environ['JAX_PROCESS_ID'])]\n"
        "waits = 74 in ends and code != 74\n"
        "late = code == 75\n"
        "stop = lambda *_: waits or (time.sleep(0.5 * late), sys.exit(code))\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready')\n"
        "end = time.monotonic() + 300\n"
        "while time.monotonic() < end: time.sleep(0.1)"
    )
    process = start("launch", *script(text, "-n", len(ends)))
    for _ in ends:
        process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert process.returncode == status
    assert time.monotonic() - began < 15  # not the grace of a minute


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


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT", "SIGKILL"])
def test_no_process_outlives_the_launcher(name):
    text = (
        "import signal, subprocess, time\n"
        "for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        "print('ready', child.pid)\n"
        "time.sleep(300)"
    )
    # Each is a shell with Python below it, which has a sleep below it.
    shell = ("-n", 2, "--grace=0.5", "--", "sh", "-c", 'echo ready $$; "$@"; :', "sh")
    process = start("launch", *shell, sys.executable, "-c", text)
    started = [int(process.stdout.readline().split()[2]) for _ in range(4)]
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=20)  # the pipe ends with the last that holds it
    number = signal.Signals[name]
    assert process.returncode == (-number if name == "SIGKILL" else 128 + number), errors
    end = time.monotonic() + 3
    while any(map(alive, started)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(alive, started))


def test_the_end_of_the_terminal_lets_processes_save_and_nohup_ignores_it():
    text = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))\n"
        "print('ready')\n"
        "time.sleep(float(sys.argv[1]))"
    )
    ends = start("launch", *script(text, "-n", 1), "300")
    ends.stdout.readline()
    ends.send_signal(signal.SIGHUP)
    assert ends.communicate(timeout=20)[0] == "[0] saved\n"
    assert ends.returncode == 128 + signal.SIGHUP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stays = start("launch", *script(text, "-n", 1), "0.3")
    finally:
        signal.signal(signal.SIGHUP, before)
    stays.stdout.readline()
    stays.send_signal(signal.SIGHUP)
    assert stays.communicate(timeout=20) == ("", "") and stays.returncode == 0


def test_processes_go_on_when_nobody_reads_what_they_say(tmp_path):
    text = f"for n in range(100_000): print('a line', n)\nopen({str(tmp_path / 'end')!r}, 'w')"
    process = start("launch", *script(text, "-n", 1))
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 0
    assert process.stderr.read() == "" and (tmp_path / "end").exists()


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

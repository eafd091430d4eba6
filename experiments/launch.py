"""Starts N processes of one command on this machine, for tests and debugging of several processes.

python -m experiments.launch -n 4 [--devices-per-process=2] -- COMMAND [ARGUMENT ...]

Every process computes on the CPU and finds in its environment what `jax.distributed.initialize`
asks for, as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; `experiments.train`
takes them from there, so that its command needs no further flag. A line of output begins with the
process's number. The first process to fail ends all, and its status is the launcher's. None
outlives the launcher, however that ends.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

AFTER_A_FAILURE = 3  # seconds that the others are given: without their peer they cannot go on

# A process that reads the numbers of the others until its input ends, which it does when the
# launcher is gone: after a SIGKILL nobody else is left to end them, and what they started.
GUARD = "trap '' HUP INT TERM; while read -r n; do all=\"$all -$n\"; done; kill -s KILL -- $all"


def launch(command: list[str], count: int, devices: int = 0, grace: float = 60) -> int:
    """Runs `count` processes of a command to their end.

    Returns:
      The status of the first that failed, also while it saved after a signal; else 128 + the signal
      that stopped them, or 0 where all ended well.

    Args:
      devices: that each process sees; 0 leaves it as it is.
      grace: seconds to save and end after Ctrl-C, SIGTERM or the end of the terminal, of which
        every process hears once; a second one kills.
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        nohup = number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
        if not nohup:
            signal.signal(number, lambda number, frame: asked.append(number))
    address = f"127.0.0.1:{free_port()}"
    processes, readers = [], []
    failed, stopped, deadline, told = 0, 0, float("inf"), 0
    fine = {0}  # statuses that are no failure
    guard = _guard()
    assert guard.stdin is not None
    tell = guard.stdin.fileno()
    try:
        for index in range(count):
            process = subprocess.Popen(
                command,
                env=environment(address, count, index, devices),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches them through us alone, once
                preexec_fn=lambda: os.write(tell, b"%d\n" % os.getpid()),  # threads begin later
            )
            processes.append(process)
        for index, process in enumerate(processes):
            readers.append(threading.Thread(target=_prefix, args=(process, index), daemon=True))
            readers[-1].start()
        while None in [p.poll() for p in processes] and time.monotonic() < deadline:
            if len(asked) > told:
                told = len(asked)
                stopped = stopped or 128 + asked[-1]
                deadline = min(deadline, time.monotonic() + (grace if told == 1 else 0))
                sent = signal.SIGINT if asked[-1] == signal.SIGINT else signal.SIGTERM
                fine |= {128 + sent, -sent}
                _signal(processes, sent)
            if not failed and (failed := _failure(processes, fine)):
                deadline = time.monotonic() + AFTER_A_FAILURE
                _signal(processes, signal.SIGTERM)
            time.sleep(0.02)
        failed = failed or _failure(processes, fine)  # of the last to end
    finally:
        _signal([*processes, guard], signal.SIGKILL)  # and what they started
        for process in (*processes, guard):
            process.wait()
        for reader in readers:
            reader.join(timeout=1)
    return failed or (stopped if any(p.returncode for p in processes) else 0)


def _guard() -> subprocess.Popen:
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        ["sh", "-c", GUARD],
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )


def _failure(processes: list[subprocess.Popen], fine: set[int]) -> int:
    """The first status that is not fine of those that have ended, as a shell gives it; or 0."""
    bad = [p.returncode for p in processes if p.returncode is not None and p.returncode not in fine]
    first = bad[0] if bad else 0
    return first if first >= 0 else 128 - first


def environment(address: str, count: int, index: int, devices: int) -> dict[str, str]:
    own = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
    }
    if devices:
        flags = os.environ.get("XLA_FLAGS", "")
        own["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
    return {**os.environ, **own}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _prefix(process: subprocess.Popen, index: int) -> None:
    """Hands on what a process writes, line by line; where nobody reads it, it need not wait."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            sys.stdout.buffer.write(b"[%d] " % index + line.rstrip(b"\n") + b"\n")
            sys.stdout.buffer.flush()
        except OSError:  # the terminal or the reader of our output is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _signal(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None or number == signal.SIGKILL:
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                continue


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        sys.exit(_fail(message))


def _fail(message: str) -> int:
    print(f"experiments.launch: {message}", file=sys.stderr)
    return 2


def main() -> int:
    parser = _Parser(prog="experiments.launch", description=__doc__.partition("\n")[0])
    parser.add_argument("-n", type=int, default=2, help="processes")
    parser.add_argument("--devices-per-process", type=int, default=0, help="CPU devices of each")
    parser.add_argument("--grace", type=float, default=60, help="seconds to save after Ctrl-C")
    parser.add_argument("command", nargs="*", help="what each process runs, behind --")
    arguments = parser.parse_args()
    if not arguments.command:
        return _fail("there is no command; for example -n 2 -- python -m experiments.train ...")
    if arguments.n < 1 or arguments.devices_per_process < 0:
        return _fail("-n must be at least 1, and --devices-per-process at least 0")
    try:
        return launch(
            arguments.command, arguments.n, arguments.devices_per_process, arguments.grace
        )
    except OSError as error:
        return _fail(f"{arguments.command[0]!r} cannot be started: {error.strerror or error}")


if __name__ == "__main__":
    sys.exit(main())

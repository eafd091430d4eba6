"""Runs many commands in forks of one process that has done the imports: seconds for minutes.

`python -m tests.forked` reads lines of JSON, `[[main, [argument, ...]], ...]`, and answers each
with a line, a list of `{"returncode", "stdout", "stderr"}`; it ends with its input. JAX is imported
before a fork, but starts no thread until a fork uses it.
"""

import json
import os
import signal
import sys
import tempfile
import time

import nn_lib.decoding  # noqa: F401
from experiments.forks import run_main

PATIENCE = 300  # seconds


def run(main: str, arguments: list[str]) -> dict:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(run_main(main, arguments))
        end = time.monotonic() + PATIENCE
        while not (found := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        texts = {}
        for name, file in (("stdout", out), ("stderr", err)):
            file.seek(0)
            texts[name] = file.read().decode()
    return {"returncode": os.waitstatus_to_exitcode(found[1]), **texts}


if __name__ == "__main__":
    for line in sys.stdin:
        answers = [run(main, arguments) for main, arguments in json.loads(line)]
        print(json.dumps(answers), flush=True)

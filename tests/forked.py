"""Runs many commands in forks of one process that has done the imports: seconds for minutes.

`python -m tests.forked` reads JSON `[[main, [argument, ...]], ...]` and writes a list of
`{"returncode", "stdout", "stderr"}`. JAX is imported before a fork, but starts no thread until a
fork uses it.
"""

import json
import os
import sys
import tempfile

import nn_lib.decoding  # noqa: F401
from experiments.forks import run_main


def run(main: str, arguments: list[str]) -> dict:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(run_main(main, arguments))
        _, status = os.waitpid(child, 0)
        texts = {}
        for name, file in (("stdout", out), ("stderr", err)):
            file.seek(0)
            texts[name] = file.read().decode()
    return {"returncode": os.waitstatus_to_exitcode(status), **texts}


if __name__ == "__main__":
    results = [run(main, arguments) for main, arguments in json.load(sys.stdin)]
    json.dump(results, sys.stdout)

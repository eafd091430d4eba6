"""Runs many commands in forks of one process that has done the imports: seconds for minutes.

`python -m tests.forked` reads JSON `[[main, [argument, ...]], ...]` and writes a list of
`{"returncode", "stdout", "stderr"}`. JAX is imported before a fork, but starts no thread until a
fork uses it.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import nn_lib.decoding
import nn_lib.train  # noqa: F401


def run(main: str, arguments: list[str]) -> dict:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(_main(main, arguments))
        _, status = os.waitpid(child, 0)
        texts = {}
        for name, file in (("stdout", out), ("stderr", err)):
            file.seek(0)
            texts[name] = file.read().decode()
    return {"returncode": os.waitstatus_to_exitcode(status), **texts}


def _main(main: str, arguments: list[str]) -> int:
    sys.argv = [main, *arguments]
    code = 0
    try:
        runpy.run_module(f"experiments.{main}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    results = [run(main, arguments) for main, arguments in json.load(sys.stdin)]
    json.dump(results, sys.stdout)

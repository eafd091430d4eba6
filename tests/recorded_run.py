"""`experiments.train`, with a checksum of every step's global batch in `batches.jsonl`.

`python -m tests.recorded_run --config=... --workdir=...` is what the tests of several processes
start, to compare the batches across a resume.
"""

import dataclasses
import json
import zlib

import jax
import numpy as np

from experiments import command_line, distributed, train
from nn_lib.train.run import Run


class Recorded:
    """A train step that notes what it is given; in every other way the step itself."""

    def __init__(self, run: Run):
        self._run = run

    def __call__(self, state, batch):
        whole = self._run.layout.fetch(batch)
        content = b"".join(np.ascontiguousarray(whole[key]).tobytes() for key in sorted(whole))
        line = {"step": int(state.step) + 1, "batch": zlib.crc32(content)}
        if jax.process_index() == 0:
            with open(train.WORKDIR.value + "/batches.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
        return self._run.train_step(state, batch)

    def __getattr__(self, name):
        return getattr(self._run.train_step, name)


def main() -> None:
    prepare = Run.prepare

    def recording(experiment):
        run = prepare(experiment)
        return dataclasses.replace(run, train_step=Recorded(run))

    Run.prepare = recording
    train.main()


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"), join=distributed.join)

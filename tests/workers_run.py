"""Trains on photographs that worker processes read, until it is stopped.

`python -m tests.workers_run FOLDER` finds them in FOLDER/photographs (`tests.imagenet_layout`).
"""

import sys
from pathlib import Path

from absl import flags

from experiments import command_line
from nn_lib.data import DataConfig
from nn_lib.models import MLP
from nn_lib.train import fit
from tests.small_runs import small


def main() -> None:
    data = DataConfig(
        name="imagenette",
        data_dir=str(FOLDER / "photographs"),
        image_size=8,
        in_memory_limit=0,
        workers=2,
    )
    experiment = small(
        model=MLP(hidden=(8,)), data=data, batch_size=8, num_steps=100_000, eval_every=0
    )
    fit(experiment, FOLDER / "run", quiet=True)


if __name__ == "__main__":
    FOLDER = Path(sys.argv.pop())
    flags.FLAGS.mark_as_parsed()
    command_line.run(main, required=())

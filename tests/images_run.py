"""Trains on photographs, some of them broken, as one of several processes; leaves what `fit` gave.

`python -m tests.images_run FOLDER WORKERS` finds them in FOLDER/photographs
(`tests.imagenet_layout`), and works in FOLDER/run_WORKERS.
"""

import json
import sys
from pathlib import Path

import jax
from absl import flags

from experiments import command_line, distributed
from nn_lib.data import DataConfig, images
from nn_lib.models import MLP
from nn_lib.train import fit
from nn_lib.train.sharding import MeshConfig
from tests.small_runs import small


def main() -> None:
    data = DataConfig(
        name="imagenette",
        data_dir=str(FOLDER / "photographs"),
        image_size=8,
        crop=images.random_resized_crop,
        workers=WORKERS,
        in_memory_limit=0,
        validation_split="",
        test_split="validation",
    )
    experiment = small(model=MLP(hidden=(8,)), data=data, batch_size=8, mesh=MeshConfig(-1))
    workdir = FOLDER / f"run_{WORKERS}"
    summary = fit(experiment, workdir, quiet=True)
    (workdir / f"returned_{jax.process_index()}.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    WORKERS, FOLDER = int(sys.argv.pop()), Path(sys.argv.pop())
    flags.FLAGS.mark_as_parsed()
    command_line.run(main, required=(), join=distributed.join)

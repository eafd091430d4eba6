"""Deep against shallow: gradient histograms, k-means codes and a linear classifier on images.

Lecture  what was learnt before features were: designed descriptors, codes, a linear predictor
Data     digits, no download; or MNIST prepared in --data_dir
Command  python -m experiments.shallow --workdir=runs/shallow --data=digits
Hardware 2 CPU cores, seconds; MNIST minutes
Ledger   bag  test accuracy 96 %  3 seeds  --data=digits --regions=1
         regions  test accuracy 97 %  3 seeds  --data=digits
         mnist  test accuracy 98 %  1 seed  --data=mnist --data_dir=$DATA/tfds --patch=8 --stride=2
"""

import json
import time

import numpy as np
from absl import flags

from experiments import command_line
from experiments.tables import metrics_table
from nn_lib import metrics
from nn_lib.checks import UserError
from nn_lib.classic.shallow import ShallowClassifier
from nn_lib.data import DataConfig, load
from nn_lib.train import files, pictures
from nn_lib.train.workdir import SUMMARY, TIMINGS

WORKDIR = flags.DEFINE_string("workdir", "", "Where summary.json and the picture go.")
DATA = flags.DEFINE_string("data", "digits", "A data set of grey images with class labels.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS data sets lie.")
PATCH = flags.DEFINE_integer("patch", 4, "Side of a described patch in pixels.", lower_bound=2)
STRIDE = flags.DEFINE_integer("stride", 1, "Pixels between patches.", lower_bound=1)
CODES = flags.DEFINE_integer("codes", 100, "Number of k-means centres.", lower_bound=2)
REGIONS = flags.DEFINE_integer("regions", 2, "Regions along a side; 1: a bag.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of k-means.", lower_bound=0)


def main() -> None:
    data = load(DataConfig(name=DATA.value, data_dir=DATA_DIR.value))
    train = data.split("train")
    shape: tuple[int, ...] = getattr(getattr(train, "inputs", None), "shape", ())
    if len(shape) != 4 or shape[-1] != 1 or data.class_names is None:
        raise UserError(
            f"--data={DATA.value} holds {list(shape) or 'no arrays'}; the pipeline takes grey "
            "images [N, H, W, 1] with class labels, in memory"
        )
    if PATCH.value > min(shape[1:3]) or PATCH.value % 2:
        raise UserError(f"--patch={PATCH.value} must be even and no larger than the images")
    workdir = command_line.output_folder(WORKDIR.value, "shallow.txt")
    model = ShallowClassifier(
        patch=PATCH.value,
        stride=STRIDE.value,
        codes=CODES.value,
        regions=REGIONS.value,
        seed=SEED.value,
    )
    began = time.monotonic()
    print(f"describes, codes and fits {len(train):,} images of {DATA.value}", flush=True)
    model.fit(train.inputs[..., 0], train.labels)
    summary: dict = {"steps": 0}
    for split in ("validation", "test"):
        if split in data.readers:
            examples = data.split(split)
            predicted = model.predict(examples.inputs[..., 0])
            matrix = np.zeros((len(data.class_names),) * 2)
            np.add.at(matrix, (examples.labels, predicted), 1)
            pictures.confusion_matrix(workdir, matrix, data.class_names, split)
            summary[split] = metrics.means({"accuracy": (np.trace(matrix), matrix.sum())})
    timing = {"step": 0, "event": "fit", "seconds": time.monotonic() - began}
    files.write_atomically(workdir / TIMINGS, json.dumps(timing) + "\n")
    files.write_atomically(workdir / SUMMARY, json.dumps(summary, indent=2))
    print(metrics_table(summary))


if __name__ == "__main__":
    command_line.run(main, required=("workdir",))

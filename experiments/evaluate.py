"""Evaluates a trained run on a split; the work directory is all it needs beside the data.

python -m experiments.evaluate --workdir=runs/mnist1d_cnn --split=test
"""

import json

from absl import flags

from experiments import command_line
from experiments.tables import metrics_table
from nn_lib import metrics
from nn_lib.checks import check_choice
from nn_lib.train import restore

WORKDIR = flags.DEFINE_string("workdir", "", "The work directory of a run.")
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last, or a step.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data lies, if it has moved.")
DATA_PATH = flags.DEFINE_string("data_path", None, "Where the text lies, if it has moved.")
TRUST = flags.DEFINE_list("trust", [], "Packages of yours that config.json may name.")
JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")


def main() -> None:
    check_choice("--split", SPLIT.value, ("train", "validation", "test"))
    trained = restore(WORKDIR.value, checkpoint=CHECKPOINT.value, trusted=tuple(TRUST.value))
    pairs = trained.evaluate(SPLIT.value, data_dir=DATA_DIR.value, path=DATA_PATH.value)
    values = metrics.means(pairs)
    if JSON.value:
        print(json.dumps({"split": SPLIT.value, "step": trained.step, **values}))
    else:
        print(f"{WORKDIR.value}, step {trained.step}")
        print(metrics_table({SPLIT.value: values}))


if __name__ == "__main__":
    command_line.run(main, required=("workdir",))

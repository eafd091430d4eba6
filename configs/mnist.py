"""MNIST with the modern LeNet-5, and row by row with an LSTM.

Paper    LeCun, Bottou, Bengio & Haffner 1998: 0.95 % test error without distortions
Data     TFDS `mnist`, prepared in --config.data.data_dir: 54,000 / 6,000 / 10,000 images
Command  python -m experiments.train --config=configs/mnist.py:lenet --workdir=runs/lenet \
             --config.data.data_dir=DIR
Variants :lenet (default) :rows
Hardware 2 CPU cores, 3 minutes
Ledger   :lenet  test accuracy 99.0 %  1 seed  --config.data.data_dir=$DATA/tfds
         :rows   test accuracy 98.5 %  1 seed  --config.data.data_dir=$DATA/tfds
"""

import functools

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig, augment, images
from nn_lib.models import LeNet5, SequenceClassifier
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import RNN, LSTMCell
from nn_lib.train import Experiment

VARIANTS = ("lenet", "rows")


def get_config(arg: str = "lenet") -> Experiment:
    check_choice("configs/mnist.py: variant", arg, VARIANTS)
    if arg == "rows":
        model = SequenceClassifier(RNN(LSTMCell(128)))
        data = DataConfig(name="mnist", prepare=images.rows)
    else:
        model = LeNet5(num_classes=None)
        data = DataConfig(
            name="mnist",
            prepare=functools.partial(images.standardize, mean=0.1307, std=0.3081, padding=2),
            augment=functools.partial(augment.pad_and_crop, padding=2, mode="edge"),
        )
    return Experiment(
        model=model,
        objective=classify,
        data=data,
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule="cosine"),
        batch_size=128,
        num_steps=4000,
        eval_every=500,
        checkpoint_every=500,
        log_every=100,
        select_by="accuracy",
        select_mode="max",
    )

"""Digits of 8x8 pixels: the smallest image task, seconds a run.

`:multi_task` learns the class and, on the same trunk, how much of the image is ink.

Data     scikit-learn's 1,797 digits, no download: 1,257 to train on, 180 to validate, 360 to test
Command  python -m experiments.train --config=configs/digits.py:cnn --workdir=runs/digits_cnn
Variants :mlp :cnn (default) :multi_task
Ledger   :mlp         test accuracy 97 %  3 seeds
         :cnn         test accuracy 98 %  3 seeds
         :multi_task  test class/accuracy 97 %  3 seeds
"""

import functools
from collections.abc import Callable

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig, images
from nn_lib.models import MLP, ConvNet, MultiHead
from nn_lib.objectives import Task, classify, multi_task
from nn_lib.optim import OptimizerConfig
from nn_lib.train import Experiment


def get_config(arg: str = "cnn") -> Experiment:
    check_choice("configs/digits.py: variant", arg, VARIANTS)
    several = arg == "multi_task"
    return Experiment(
        model=MODELS[arg](),
        objective=functools.partial(multi_task, tasks=TASKS) if several else classify,
        data=DataConfig(name="digits", derive=images.stroke_area if several else None),
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule="cosine"),
        batch_size=64,
        num_steps=1000,
        eval_every=100,
        checkpoint_every=250,
        log_every=50,
        select_by="class/accuracy" if several else "accuracy",
        select_mode="max",
    )


MODELS: dict[str, Callable] = {
    "mlp": lambda: MLP(hidden=(64, 64)),
    "cnn": lambda: ConvNet(
        features=(16, 32, 32),
        windows=((3, 3), (3, 3), (3, 3)),
        strides=(1, 2, 2),
        batch_norm=True,
        dropout=0.1,
    ),
    "multi_task": lambda: MultiHead(MLP(hidden=(64, 64)), heads=(("class", 10), ("area", 1))),
}
VARIANTS = tuple(MODELS)
TASKS = (Task("class"), Task("area", labels="area", kind="regress", weight=10.0))

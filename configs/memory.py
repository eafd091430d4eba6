"""What a gradient must carry far: the adding problem and copying after a delay.

Paper    Hochreiter & Schmidhuber 1997; Le, Jaitly & Hinton 2015 (the adding problem as it is here);
         Arjovsky, Shah & Bengio 2016 (the copy memory)
Data     adding/200 and copy_memory/100, generated on first use, no download: 20,000 and 10,000 to
         train on
Command  python -m experiments.train --config=configs/memory.py:adding_lstm --workdir=runs/adding
Variants :adding_lstm (default) :adding_gru :adding_vanilla :adding_irnn
         :copy_lstm :copy_gru :copy_vanilla :copy_irnn
Hardware 2 CPU cores, minutes
Without a memory: a mean squared error of 1/6 = 0.1667, or a loss of 10 ln(8) / 120 = 0.1733
Ledger   :adding_lstm     test loss 0.01  1 seed
         :adding_gru      test loss 0.01  1 seed
         :adding_vanilla  test loss 0.167  1 seed
         :copy_lstm       test loss 0.17  1 seed
         :copy_gru        test loss 0.1  1 seed
         :copy_vanilla    test loss 0.173  1 seed
"""

import functools
from collections.abc import Callable

import flax.linen as nn

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.layers.initializers import scaled_identity
from nn_lib.models import SequenceClassifier
from nn_lib.objectives import regress, tag
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import RNN, GRUCell, LSTMCell, VanillaCell
from nn_lib.train import Experiment

CELLS: dict[str, Callable] = {
    "lstm": LSTMCell,
    "gru": GRUCell,
    "vanilla": VanillaCell,
    "irnn": functools.partial(
        VanillaCell, activation=nn.relu, recurrent_kernel_init=scaled_identity
    ),
}
VARIANTS = tuple(f"{task}_{cell}" for task in ("adding", "copy") for cell in CELLS)
one_hot = functools.partial(nn.one_hot, num_classes=10)


def get_config(arg: str = "adding_lstm") -> Experiment:
    check_choice("configs/memory.py: variant", arg, VARIANTS)
    task, _, cell = arg.partition("_")
    adding = task == "adding"
    return Experiment(
        model=SequenceClassifier(
            RNN(CELLS[cell](64 if adding else 128)), readout="last" if adding else "every"
        ),
        objective=regress if adding else tag,
        data=DataConfig("adding/200") if adding else DataConfig("copy_memory/100", prepare=one_hot),
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, clip_norm=1.0),
        batch_size=50 if adding else 100,
        num_steps=2500 if adding else 2000,
        eval_every=500,
        checkpoint_every=500,
        log_every=100,
    )

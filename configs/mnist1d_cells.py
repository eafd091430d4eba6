"""MNIST-1D by every recurrent cell: 40 steps of one number, read once from left to right.

Data     generated on first use, no download: 3,600 to train on, 400 to validate, 1,000 to test
Command  python -m experiments.train --config=configs/mnist1d_cells.py:lstm --workdir=runs/cells_lstm
Variants the cells below, :lstm the default; all with 24 units, on a linear layer of 24, which MUT1
         and MUT2 need, and below a linear layer that sees the outputs of all steps
Hardware 2 CPU cores, half a minute
Ledger   :vanilla            test accuracy 80 %  3 seeds
         :lstm               test accuracy 90 %  3 seeds
         :lstm_peephole      test accuracy 90 %  3 seeds
         :lstm_coupled       test accuracy 90 %  3 seeds
         :lstm_1997          test accuracy 85 %  3 seeds
         :lstm_layer_norm    test accuracy 90 %  3 seeds
         :lstm_projected     test accuracy 90 %  3 seeds
         :gru                test accuracy 90 %  3 seeds
         :gru_reset_after    test accuracy 90 %  3 seeds
         :mut1               test accuracy 90 %  3 seeds
         :mut2               test accuracy 90 %  3 seeds
         :mut3               test accuracy 90 %  3 seeds
         :recurrent_highway  test accuracy 90 %  3 seeds
         :nas                test accuracy 90 %  3 seeds
"""

import functools
from collections.abc import Callable

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.models import SequenceClassifier
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import (
    RNN,
    GRUCell,
    LSTMCell,
    MUT1Cell,
    MUT2Cell,
    MUT3Cell,
    NASCell,
    RecurrentHighwayCell,
    VanillaCell,
)
from nn_lib.train import Experiment

CELLS: dict[str, Callable] = {
    "vanilla": VanillaCell,
    "lstm": LSTMCell,
    "lstm_peephole": functools.partial(LSTMCell, peephole=True),
    "lstm_coupled": functools.partial(LSTMCell, gates="coupled"),
    "lstm_1997": functools.partial(LSTMCell, gates="no_forget"),
    "lstm_layer_norm": functools.partial(LSTMCell, layer_norm=True),
    "lstm_projected": functools.partial(LSTMCell, projection=12),
    "gru": GRUCell,
    "gru_reset_after": functools.partial(GRUCell, reset_after=True),
    "mut1": MUT1Cell,
    "mut2": MUT2Cell,
    "mut3": MUT3Cell,
    "recurrent_highway": RecurrentHighwayCell,
    "nas": NASCell,
}
VARIANTS = tuple(CELLS)


def get_config(arg: str = "lstm") -> Experiment:
    check_choice("configs/mnist1d_cells.py: variant", arg, VARIANTS)
    return Experiment(
        model=SequenceClassifier(RNN(CELLS[arg](24)), readout="all", embedding=24),
        objective=classify,
        data=DataConfig(name="mnist1d"),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=5e-3, schedule="cosine", clip_norm=1.0
        ),
        batch_size=100,
        num_steps=2000,
        eval_every=500,
        checkpoint_every=500,
        log_every=100,
        select_by="accuracy",
        select_mode="max",
    )

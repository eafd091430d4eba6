"""Vanishing and exploding gradients, and what is done about them, on the adding problem of length 50.

Lecture  dh_i/dh_l is a product of i - l Jacobians: below 1 it vanishes, above 1 it explodes; along
         the cell state of an LSTM without a forget gate it is 1, the constant error carousel
Data     adding/50, generated on first use, no download
Command  python -m experiments.gradient_flow --workdir=runs/gradient_flow \\
             --runs=configs/gradient_flow.py:vanishing,configs/gradient_flow.py:carousel
Training python -m experiments.train --config=configs/gradient_flow.py:clipped --workdir=runs/clipped
Variants :vanishing  tanh, its recurrent matrix 0.7 times an orthogonal one
         :carousel   the LSTM of 1997, whose cell state is only added to
         :exploding  rectifiers, the identity times 1.2; training stops, nothing in it is finite
         :clipped    the same, its gradient clipped to a norm of 1 (default)
Hardware 2 CPU cores, seconds
"""

import functools

import flax.linen as nn

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.layers.initializers import scaled_identity, scaled_orthogonal
from nn_lib.models import SequenceClassifier
from nn_lib.objectives import regress
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import RNN, LSTMCell, VanillaCell
from nn_lib.train import Experiment


def get_config(arg: str = "clipped") -> Experiment:
    check_choice("configs/gradient_flow.py: variant", arg, VARIANTS)
    return Experiment(
        model=SequenceClassifier(RNN(CELLS[arg]()), readout="last"),
        objective=regress,
        data=DataConfig("adding/50"),
        optimizer=OptimizerConfig(
            name="sgd", learning_rate=0.01, clip_norm=1.0 if arg == "clipped" else None
        ),
        batch_size=50,
        num_steps=1000,
        eval_every=250,
        checkpoint_every=250,
        log_every=10,
    )


def _explosive() -> VanillaCell:
    init = functools.partial(scaled_identity, scale=1.2)
    return VanillaCell(32, activation=nn.relu, recurrent_kernel_init=init)


CELLS = {
    "vanishing": lambda: VanillaCell(
        32, recurrent_kernel_init=functools.partial(scaled_orthogonal, scale=0.7)
    ),
    "carousel": lambda: LSTMCell(32, gates="no_forget"),
    "exploding": _explosive,
    "clipped": _explosive,
}
VARIANTS = tuple(CELLS)

"""MNIST-1D: ten classes of noisy signals of length 40; the models of the paper's table.

Paper    Greydanus & Kobak 2020, "Scaling down deep learning with MNIST-1D", arXiv:2011.14439
Data     generated on first use, no download: 3,600 to train on, 400 to validate, 1,000 to test
Command  python -m experiments.train --config=configs/mnist1d.py:cnn --workdir=runs/mnist1d_cnn
Variants :linear :mlp :cnn (default) :gru :lstm
Hardware 2 CPU cores, 12 s
Ledger   :cnn  test accuracy 94 %  3 seeds
"""

from collections.abc import Callable

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.models import MLP, ConvNet, Linear, SequenceClassifier
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import RNN, Bidirectional, GRUCell, LSTMCell
from nn_lib.train import Experiment


def get_config(arg: str = "cnn") -> Experiment:
    check_choice("configs/mnist1d.py: variant", arg, VARIANTS)
    return Experiment(
        model=MODELS[arg](),
        objective=classify,
        data=DataConfig(name="mnist1d"),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-2, schedule="cosine"),
        batch_size=100,
        num_steps=4000,
        eval_every=500,
        checkpoint_every=500,
        log_every=100,
        select_by="accuracy",
        select_mode="max",
    )


def _both_ways(cell) -> SequenceClassifier:
    layer = Bidirectional(RNN(cell), RNN(cell.clone(), reverse=True))
    return SequenceClassifier(layer, readout="all")


MODELS: dict[str, Callable] = {
    "linear": Linear,
    "mlp": lambda: MLP(hidden=(100, 100)),
    "cnn": lambda: ConvNet(
        features=(25, 25, 25),
        windows=((5,), (3,), (3,)),
        strides=(2, 2, 2),
        padding=1,
        dropout=0.1,
    ),
    "gru": lambda: _both_ways(GRUCell(6, reset_after=True, double_bias=True)),
    "lstm": lambda: _both_ways(LSTMCell(6)),
}
VARIANTS = tuple(MODELS)

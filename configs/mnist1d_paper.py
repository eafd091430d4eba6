"""The table of the MNIST-1D paper by its own recipe: all 4,000 signals, constant rate, no dropout.

Paper    Greydanus & Kobak 2020, "Scaling down deep learning with MNIST-1D", arXiv:2011.14439
Data     generated on first use, no download: 4,000 to train on, 1,000 to test, none to validate
Command  python -m experiments.train --config=configs/mnist1d_paper.py:cnn --workdir=runs/paper_cnn
Variants :linear :mlp :cnn (default) :gru, and each with the positions shuffled: :cnn_shuffled
Hardware 2 CPU cores, seconds; the GRU a minute or two
Ledger   :linear           test accuracy 30 %  3 seeds  published 32 %
         :mlp              test accuracy 65 %  3 seeds  published 68 %
         :cnn              test accuracy 92 %  3 seeds  published 94 %
         :gru              test accuracy 89 %  3 seeds  published 91 %
         :linear_shuffled  test accuracy 32 %  3 seeds  published 32 %
         :mlp_shuffled     test accuracy 66 %  3 seeds  published 68 %
         :cnn_shuffled     test accuracy 58 %  3 seeds  published 56 %
         :gru_shuffled     test accuracy 55 %  3 seeds  published 57 %
"""

import functools
from collections.abc import Callable

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.layers.initializers import symmetric_uniform
from nn_lib.models import MLP, ConvNet, Linear, SequenceClassifier
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import RNN, Bidirectional, GRUCell
from nn_lib.train import Experiment


def get_config(arg: str = "cnn") -> Experiment:
    check_choice("configs/mnist1d_paper.py: variant", arg, VARIANTS)
    name, _, shuffled = arg.partition("_")
    return Experiment(
        model=MODELS[name](),
        objective=classify,
        data=DataConfig(
            name="mnist1d/shuffled" if shuffled else "mnist1d",
            train_split="train",
            validation_split="",
        ),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-2),
        batch_size=100,
        num_steps=6000,
        eval_every=0,
        checkpoint_every=2000,
        log_every=100,
        evaluate_with="last",
    )


def _gru() -> SequenceClassifier:
    """With torch's redundant biases, for the published count of 5,134, and its initialisation.

    On shuffled signals the latter is worth three points: the width of the input is one, for which
    the usual initialisers scale by the fan-in and begin with far larger weights.
    """
    init = functools.partial(symmetric_uniform, bound=6**-0.5)
    cell = GRUCell(
        6,
        reset_after=True,
        double_bias=True,
        kernel_init=init,
        recurrent_kernel_init=init,
        bias_init=init,
    )
    layer = Bidirectional(RNN(cell), RNN(cell.clone(), reverse=True))
    return SequenceClassifier(layer, readout="all")


MODELS: dict[str, Callable] = {
    "linear": Linear,
    "mlp": lambda: MLP(hidden=(100, 100)),
    "cnn": lambda: ConvNet(
        features=(25, 25, 25), windows=((5,), (3,), (3,)), strides=(2, 2, 2), padding=1
    ),
    "gru": _gru,
}
VARIANTS = tuple(name + suffix for suffix in ("", "_shuffled") for name in MODELS)

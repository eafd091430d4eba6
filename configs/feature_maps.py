"""Fixed feature maps phi(x) against learned ones, on a wave and on rings in the plane.

Lecture  linear predictors on phi(x) = [1, x], [1, x, x^2, x^3], [1, x, sin(3x)]; the hidden layer
         of a network as a learned phi
Data     wave (regression) and rings (two classes), generated, no download: 200 to train on
Command  python -m experiments.train --config=configs/feature_maps.py:wave_sine --workdir=runs/sine
All      python -m experiments.feature_maps --workdir=runs/feature_maps
Variants :wave_line :wave_cubic :wave_sine :wave_learned :rings_linear :rings_quadratic
         :rings_learned
Hardware 2 CPU cores, seconds
Ledger   :wave_line        test r2 0.7  1 seed
         :wave_sine        test r2 0.99  1 seed
         :wave_learned     test r2 0.99  1 seed
         :rings_linear     test accuracy 50 %  1 seed
         :rings_quadratic  test accuracy 100 %  1 seed
         :rings_learned    test accuracy 100 %  1 seed
"""

import functools

import flax.linen as nn

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.layers import feature_maps
from nn_lib.models import MLP, Linear
from nn_lib.objectives import classify, regress
from nn_lib.optim import OptimizerConfig
from nn_lib.train import Experiment

CUBIC = functools.partial(feature_maps.polynomial, degree=3)
QUADRATIC = functools.partial(feature_maps.polynomial, degree=2)
# name: phi, and the hidden units of what follows it.
MAPS = {
    "wave_line": (None, 0),
    "wave_cubic": (CUBIC, 0),
    "wave_sine": (feature_maps.sine, 0),
    "wave_learned": (None, 32),
    "rings_linear": (None, 0),
    "rings_quadratic": (QUADRATIC, 0),
    "rings_learned": (None, 16),
}
VARIANTS = tuple(MAPS)


def get_config(arg: str = "wave_sine") -> Experiment:
    check_choice("configs/feature_maps.py: variant", arg, VARIANTS)
    phi, hidden = MAPS[arg]
    data = arg.partition("_")[0]
    return Experiment(
        model=MLP(hidden=(hidden,), activation=nn.tanh) if hidden else Linear(),
        objective=regress if data == "wave" else classify,
        data=DataConfig(name=data, prepare=phi),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.03, schedule="cosine"),
        batch_size=0,
        num_steps=2000,
        eval_every=500,
        checkpoint_every=0,
        log_every=100,
    )

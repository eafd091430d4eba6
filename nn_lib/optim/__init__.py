"""Optimizers: one `build_optimizer` for every experiment."""

from nn_lib.optim.optimizers import OptimizerConfig, build_optimizer
from nn_lib.optim.plateau import learning_rate_scale
from nn_lib.optim.rules import gradient_params

__all__ = ["OptimizerConfig", "build_optimizer", "gradient_params", "learning_rate_scale"]

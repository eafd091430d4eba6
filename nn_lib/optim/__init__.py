"""Optimizers: one `build_optimizer` for every experiment."""

from nn_lib.optim.optimizers import OptimizerConfig, build_optimizer

__all__ = ["OptimizerConfig", "build_optimizer"]

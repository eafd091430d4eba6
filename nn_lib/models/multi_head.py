"""One trunk, several heads: multi-task learning."""

from typing import Any

import flax.linen as nn
import jax

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense
from nn_lib.layers.precision import Composite


class MultiHead(Composite):
    """`{name: W_k trunk(x) + b_k}`, a linear head for every task on shared features.

    Attributes:
      trunk: a module that gives features `[B, F]`, such as `MLP` with `num_classes=None`.
      heads: pairs (name, number of outputs).

    Caruana 1997, "Multitask learning".
    """

    trunk: nn.Module
    heads: tuple[tuple[str, int], ...]
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        features = self.trunk(inputs, train=train)
        return {
            name: at_least_float32(Dense(outputs, dtype=self.dtype, name=name)(features))
            for name, outputs in self.heads
        }

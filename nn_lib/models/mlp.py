"""Linear predictor and multi-layer perceptron over flattened inputs."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense


class MLP(nn.Module):
    """`v_l = activation(W_l v_{l-1} + b_l)` for every hidden width, then a linear layer.

    `[B, ...] -> [B, num_classes]`; `num_classes=None` gives the last hidden features.
    """

    hidden: tuple[int, ...] = (100, 100)
    num_classes: int | None = None
    activation: Callable = nn.relu
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        x = inputs.reshape(inputs.shape[0], -1)
        for width in self.hidden:
            x = self.activation(Dense(width, dtype=self.dtype)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.num_classes is None:
            return x
        return at_least_float32(Dense(self.num_classes, dtype=self.dtype)(x))


class Linear(nn.Module):
    """`y = W x + b` on the flattened input, `[B, ...] -> [B, num_classes]`."""

    num_classes: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        network = MLP(hidden=(), num_classes=self.num_classes, dtype=self.dtype, name="mlp")
        return network(inputs, train=train)

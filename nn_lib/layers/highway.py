"""The highway layer: a gate decides how much of the input passes unchanged."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.dense import Dense


class Highway(nn.Module):
    """`T = sigma(W_T x + b_T); y = T . f(W_H x + b_H) + (1 - T) . x`, `[..., F] -> [..., F]`.

    With `gate_bias` between -1 and -3 the layer begins near the identity.

    Srivastava, Greff & Schmidhuber 2015, "Highway networks".
    """

    activation: Callable = jnp.tanh
    gate_bias: float = -1.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        start = nn.initializers.constant(self.gate_bias)
        T = jax.nn.sigmoid(Dense(width, bias_init=start, dtype=self.dtype, name="gate")(x))
        H = self.activation(Dense(width, dtype=self.dtype, name="transform")(x))
        return T * H + (1 - T) * x

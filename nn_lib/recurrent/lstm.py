"""The long short-term memory cell."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.recurrent.cell import Cell
from nn_lib.recurrent.lstm_sequence import lstm_sequence


class LSTMCell(Cell):
    """Long short-term memory; the carry is `(c, h)`, each `[B, H]`, the output is h.

    ```
    (i, f, o, g) = (sigma, sigma, sigma, tanh)(W [h_{t-1}; x_t] + b)
    c_t = f . c_{t-1} + i . g
    h_t = o . tanh(c_t)
    ```
    Column blocks of the kernels are in the order i, f, o, g.

    Attributes:
      forget_bias: added to f's part of the bias at initialisation, so that the cell begins by
        remembering (Gers et al. 2000; Jozefowicz et al. 2015 recommend 1).

    Hochreiter & Schmidhuber 1997; the forget gate is of Gers, Schmidhuber & Cummins 2000.
    """

    forget_bias: float = 1.0

    @nn.compact
    def weights(self, input_features: int):
        def bias_init(key, shape, dtype):
            forget = jnp.repeat(jnp.array([0.0, self.forget_bias, 0.0, 0.0], dtype), self.features)
            return self.bias_init(key, shape, dtype) + forget

        return self.affine_weights(input_features, blocks=4, bias_init=bias_init)

    @nn.nowrap
    def project(self, w, x):
        return x @ w["kernel"] + w["bias"]

    @nn.nowrap
    def step(self, w, carry, projected):
        c, h = carry
        i, f, o, g = jnp.split(projected + h @ w["recurrent_kernel"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h

    @nn.nowrap
    def sequence(self, w, carry, projected, again, on):
        """All steps at once, `[T, B, ...]`, by the gradient written out in `lstm_sequence`."""
        halves = jnp.array([0.5, 0.5, 0.5, 1.0], projected.dtype)
        half = jnp.repeat(halves, self.features)
        return lstm_sequence(w["recurrent_kernel"] * half, projected * half, carry, again, on)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        """c = h = 0."""
        zeros = super().initialize_carry(rng, input_shape)
        return zeros, zeros

"""The vanilla (Elman) cell."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.precision import add_bias
from nn_lib.recurrent.cell import Cell
from nn_lib.recurrent.products import product
from nn_lib.recurrent.vanilla_sequence import vanilla_sequence


def output_distribution(W_hy: jax.Array, h: jax.Array) -> jax.Array:
    """The lectures' output rule `y_t = softmax(W_hy h_t)`, for `h [..., H]` and `W_hy [C, H]`."""
    return jax.nn.softmax(h @ W_hy.T)


class VanillaCell(Cell):
    """`h_t = tanh(W_hh h_{t-1} + W_xh x_t + b_h)`; the carry and the output are `h [B, H]`.

    Attributes:
      activation: in place of tanh; the rectifier with an identity `recurrent_kernel_init` makes an
        IRNN (Le et al. 2015).

    Elman, "Finding structure in time", 1990.
    """

    activation: Callable = jnp.tanh

    @nn.compact
    def weights(self, input_features: int):
        return self.affine_weights(input_features, blocks=1)

    @nn.nowrap
    def project(self, w, x):
        return add_bias(x @ w["kernel"], w["bias"])

    @nn.nowrap
    def step(self, w, carry, projected):
        dtype = projected.dtype
        a = projected + self.seen(w, carry, dtype) @ w["recurrent_kernel"]
        h = self.activation(at_least_float32(a))
        return h, h.astype(dtype)

    @property
    def written_out(self) -> bool:
        """The gradient is written out for tanh."""
        return self.activation is jnp.tanh

    @nn.nowrap
    def sequence(self, w, carry, x, again, on):
        """All steps at once, `[T, B, ...]`, by the gradient written out in `vanilla_sequence`."""
        projected = product(x, w["kernel"])
        return vanilla_sequence(w["recurrent_kernel"], w["bias"], projected, carry, again, on)

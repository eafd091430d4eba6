"""The vanilla (Elman) cell."""

import flax.linen as nn
import jax.numpy as jnp

from nn_lib.recurrent.cell import Cell
from nn_lib.recurrent.vanilla_sequence import vanilla_sequence


class VanillaCell(Cell):
    """`h_t = tanh(W_hh h_{t-1} + W_xh x_t + b_h)`; the carry and the output are `h [B, H]`.

    Elman, "Finding structure in time", 1990.
    """

    @nn.compact
    def weights(self, input_features: int):
        return self.affine_weights(input_features, blocks=1)

    @nn.nowrap
    def project(self, w, x):
        return x @ w["kernel"] + w["bias"]

    @nn.nowrap
    def step(self, w, carry, projected):
        h = jnp.tanh(projected + carry @ w["recurrent_kernel"])
        return h, h

    @nn.nowrap
    def sequence(self, w, carry, projected, again, on):
        """All steps at once, `[T, B, ...]`, by the gradient written out in `vanilla_sequence`."""
        return vanilla_sequence(w["recurrent_kernel"], projected, carry, again, on)

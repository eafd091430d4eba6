"""The vanilla cell that an image conditions, as the captioning lecture prints it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.precision import add_bias
from nn_lib.recurrent.cell import Cell


class ConditionedVanillaCell(Cell):
    """`h_t = tanh(W_hh h_{t-1} + W_xh x_t + W_ih v + b_h)`; the carry is `(h [B, H], v [B, V])`.

    The condition v, an image's features for example, enters with the initial carry and stays; the
    output is h.

    Attributes:
      condition_features: V.
      first_step_only: v enters the first step alone (Karpathy & Fei-Fei 2015), not every one.
    """

    condition_features: int = 0
    first_step_only: bool = False

    @nn.compact
    def weights(self, input_features: int):
        if self.condition_features < 1:
            raise UserError(
                "ConditionedVanillaCell expects condition_features, the width of v, above 0, got "
                f"{self.condition_features}"
            )
        w = self.affine_weights(input_features, blocks=1)
        shape = (self.condition_features, self.features)
        condition = self.param("condition_kernel", self.kernel_init, shape, self.param_dtype)
        return {**w, "condition_kernel": self.cast(condition)}

    @nn.nowrap
    def project(self, w, x):
        return add_bias(x @ w["kernel"], w["bias"])

    @nn.nowrap
    def step(self, w, carry, projected):
        h, v = carry
        dtype = projected.dtype
        a = projected + self.seen(w, h, dtype) @ w["recurrent_kernel"]
        h = jnp.tanh(at_least_float32(a + v.astype(dtype) @ w["condition_kernel"]))
        return (h, jnp.zeros_like(v) if self.first_step_only else v), h.astype(dtype)

    @nn.nowrap
    def exposed(self, carry):
        return carry[0]

    @nn.nowrap
    def zoneout_rates(self, rate, carry):
        """v is no state."""
        return rate, 0.0

    @nn.nowrap
    def initialize_carry(self, rng, input_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """h = v = 0: no condition."""
        h = super().initialize_carry(rng, input_shape)
        return h, jnp.zeros((*h.shape[:-1], self.condition_features), h.dtype)

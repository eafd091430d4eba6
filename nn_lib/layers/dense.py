"""Flax's Dense and Embed, whose gradients in half precision add up over the batch in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.checks import UserError
from nn_lib.layers.precision import add_bias


class Dense(nn.Dense):
    """`flax.linen.Dense`, `y = x W + b`, `[..., F] -> [..., features]`, with its parameters."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        shape = (jnp.shape(inputs)[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel = nn.dtypes.promote_dtype(inputs, kernel, dtype=self.dtype)
        y = lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=self.precision)
        return y if bias is None else add_bias(y, jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,)))


class Embed(nn.Embed):
    """`flax.linen.Embed`, `int[...] -> [..., features]`, cast after the look-up, not before.

    The gradient of a row is a sum over its occurrences in the dtype of the look-up: in bfloat16 it
    would stop growing at the 256th.
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise UserError(f"Embed expects whole numbers, got {inputs.dtype}{list(inputs.shape)}")
        rows = jnp.take(self.embedding, inputs, axis=0)
        return rows if self.dtype is None else rows.astype(self.dtype)

"""The gated recurrent unit, in the lectures' form and in cuDNN's."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.precision import add_bias
from nn_lib.recurrent.cell import Cell
from nn_lib.recurrent.gru_sequence import gru_sequence
from nn_lib.recurrent.products import product


class GRUCell(Cell):
    """Gated recurrent unit; the carry and the output are `h [B, H]`.

    ```
    r_t = sigma(W_xr x_t + W_hr h_{t-1} + b_r)
    z_t = sigma(W_xz x_t + W_hz h_{t-1} + b_z)
    n_t = tanh(W_xh x_t + W_hh (r_t . h_{t-1}) + b_h)
    h_t = z_t . h_{t-1} + (1 - z_t) . n_t
    ```
    Column blocks of the kernels are in the order r, z, n.

    Attributes:
      reset_after: the form of cuDNN, torch and Flax,
        `n_t = tanh(W_xh x_t + b_h + r_t . (W_hh h_{t-1} + b_hn))`, which has one more bias.
      double_bias: with `reset_after`, also the second bias of r and z that cuDNN and torch have; it
        adds to the first and changes nothing but the count of parameters and the rate of learning.

    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder".
    """

    reset_after: bool = False
    double_bias: bool = False

    @nn.compact
    def weights(self, input_features: int):
        w = self.affine_weights(input_features, blocks=3)
        if self.reset_after:
            b_hn = self.param("bias_hn", self.bias_init, (self.features,), self.param_dtype)
            w["bias_hn"] = self.cast(b_hn)
        if self.double_bias:
            if not self.reset_after:
                raise UserError("GRUCell: double_bias belongs to reset_after=True, which is False")
            b_rz = self.param("bias_rz", self.bias_init, (2 * self.features,), self.param_dtype)
            w["bias"] = w["bias"] + jnp.pad(self.cast(b_rz), (0, self.features))
        return w

    @nn.nowrap
    def project(self, w, x):
        return add_bias(x @ w["kernel"], w["bias"])

    @nn.nowrap
    def step(self, w, carry, projected):
        h, split, dtype = carry, 2 * self.features, projected.dtype
        W_rz, W_hh = w["recurrent_kernel"][:, :split], w["recurrent_kernel"][:, split:]
        x_rz, x_n = projected[..., :split], projected[..., split:]
        seen = self.seen(w, h, dtype)
        r, z = jnp.split(jax.nn.sigmoid(at_least_float32(x_rz + seen @ W_rz)), 2, axis=-1)
        if self.reset_after:
            n = jnp.tanh(x_n + r * add_bias(seen @ W_hh, w["bias_hn"]))
        else:
            n = jnp.tanh(at_least_float32(x_n + (r * seen).astype(dtype) @ W_hh))
        h = z * h + (1 - z) * n
        return h, h.astype(dtype)

    @nn.nowrap
    def sequence(self, w, carry, x, again, on):
        """All steps at once, `[T, B, ...]`, by the gradient written out in `gru_sequence`."""
        bias_hn = w["bias_hn"] if self.reset_after else None
        kernel, projected = w["recurrent_kernel"], product(x, w["kernel"])
        return gru_sequence(kernel, w["bias"], bias_hn, projected, carry, again, on)

"""The recurrent highway cell: several layers of transformation within one step of time."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.precision import add_bias
from nn_lib.recurrent.arguments import check_size
from nn_lib.recurrent.cell import Cell


class RecurrentHighwayCell(Cell):
    """Recurrent highway; the carry and the output are `h [B, H]`.

    ```
    s_0 = h_{t-1};  for l = 1..depth, with x_t in the first layer only:
    u_l = tanh(W_H x_t + R_H^l s_{l-1} + b_H^l)
    g_l = sigma(W_T x_t + R_T^l s_{l-1} + b_T^l)
    s_l = u_l . g_l + s_{l-1} . (1 - g_l);  h_t = s_depth
    ```
    The carry gate is coupled to the transform gate g. Column blocks H, T; `recurrent_kernel` is
    `[depth, H, 2H]`, `bias [depth, 2H]`.

    Attributes:
      depth: layers within a step.
      transform_bias: of g at initialisation; negative, so that the cell begins by copying.

    Zilly, Srivastava, Koutnik & Schmidhuber 2017, "Recurrent highway networks".
    """

    depth: int = 2
    transform_bias: float = -1.0

    @nn.compact
    def weights(self, input_features: int):
        check_size("RecurrentHighwayCell", "depth", self.depth)
        width = 2 * self.features

        def recurrent_init(key, shape, dtype):
            keys = jax.random.split(key, 2 * self.depth)
            square = (self.features, self.features)
            parts = [self.draw(self.recurrent_kernel_init, k, square, dtype) for k in keys]
            return jnp.stack([jnp.concatenate(parts[i : i + 2], 1) for i in range(0, len(keys), 2)])

        def bias_init(key, shape, dtype):
            transform = jnp.repeat(jnp.array([0.0, self.transform_bias], dtype), self.features)
            return self.bias_init(key, shape, dtype) + transform

        shape = (self.depth, self.features, width)
        kernel = self.param("kernel", self.kernel_init, (input_features, width), self.param_dtype)
        recurrent = self.param("recurrent_kernel", recurrent_init, shape, self.param_dtype)
        bias = self.param("bias", bias_init, (self.depth, width), self.param_dtype)
        return self.cast({"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias})

    @nn.nowrap
    def project(self, w, x):
        return x @ w["kernel"]

    @nn.nowrap
    def step(self, w, carry, projected):
        s, dtype = carry, projected.dtype
        for R, b in zip(w["recurrent_kernel"], w["bias"]):
            a = add_bias(projected + self.seen(w, s, dtype) @ R, b)
            u, g = jnp.split(at_least_float32(a), 2, axis=-1)
            g = jax.nn.sigmoid(g)
            s = jnp.tanh(u) * g + s * (1 - g)
            projected = 0.0
        return s, s.astype(dtype)

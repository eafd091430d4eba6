"""The cell that neural architecture search found on the Penn Treebank."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.precision import add_bias
from nn_lib.recurrent.cell import Cell


class NASCell(Cell):
    """The carry is `(c, m)`, each `[B, H]`, the output is m.

    ```
    a = x_t W_x,  q = m_{t-1} W_m + b   (eight blocks each)
    l0 = sigma(a0 + q0)  l1 = relu(a1 + q1)  l2 = sigma(a2 + q2)  l3 = relu(a3 . q3)
    l4 = tanh(a4 + q4)   l5 = sigma(a5 + q5) l6 = tanh(a6 + q6)   l7 = sigma(a7 + q7)
    c_t = tanh(tanh(l0 . l1) + c_{t-1}) . tanh(l2 + l3)
    m_t = tanh(c_t . tanh(tanh(l4 . l5) + sigma(l6 + l7)))
    ```
    The bias belongs to the recurrent product alone, which matters in block 3.

    Zoph & Le 2017, "Neural architecture search with reinforcement learning".
    """

    @nn.compact
    def weights(self, input_features: int):
        return self.affine_weights(input_features, blocks=8)

    @nn.nowrap
    def project(self, w, x):
        return x @ w["kernel"]

    @nn.nowrap
    def step(self, w, carry, projected):
        (c, m), dtype = carry, projected.dtype
        a = jnp.split(at_least_float32(projected), 8, axis=-1)
        q = add_bias(self.seen(w, m, dtype) @ w["recurrent_kernel"], w["bias"])
        q = jnp.split(at_least_float32(q), 8, axis=-1)
        s0, s1, s2, _, s4, s5, s6, s7 = (x + y for x, y in zip(a, q))
        sigma, tanh, relu = jax.nn.sigmoid, jnp.tanh, jax.nn.relu
        c = tanh(tanh(sigma(s0) * relu(s1)) + c) * tanh(sigma(s2) + relu(a[3] * q[3]))
        output = tanh(tanh(s4) * sigma(s5)) + sigma(tanh(s6) + sigma(s7))
        m = tanh(c * tanh(output))
        return (c, m), m.astype(dtype)

    @nn.nowrap
    def exposed(self, carry):
        return carry[1]

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        """c = m = 0."""
        zeros = super().initialize_carry(rng, input_shape)
        return zeros, zeros

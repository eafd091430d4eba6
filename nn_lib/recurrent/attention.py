"""Cells that look at a memory in every step: a decoder's first layer.

Both wrap another cell. The memory `a [B, S, C]` and its mask `bool[B, S]` (or None) are the context
of the driver: `RNN(BahdanauCell(...))(x, context=(a, mask))`.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.attention import (
    additive_scores,
    attend,
    attention_weights,
    multiplicative_scores,
)
from nn_lib.recurrent.cell import Cell, state_dtype
from nn_lib.recurrent.gru import GRUCell


class _AttentionCell(Cell):
    """What the two share: an inner cell, and the width C of the memory.

    Attributes:
      features: A, the width of the attention: of its hidden layer, or of its output.
      cell: the inner cell, H wide.
      memory_features: C.
    """

    cell: Cell = dataclasses.field(default_factory=lambda: GRUCell(128))
    memory_features: int = 128

    exposes_output = False

    @nn.nowrap
    def _matrix(self, name: str, rows: int, columns: int) -> jax.Array:
        return self.cast(self.param(name, self.kernel_init, (rows, columns), self.param_dtype))

    @nn.nowrap
    def _inner_step(self, w, carry, x):
        return self.cell.step(w["cell"], carry, self.cell.project(w["cell"], self.cell.cast(x)))

    @nn.nowrap
    def _check(self, w) -> None:
        who = type(self).__name__
        if "keys" not in w:
            raise UserError(f"{who} expects a memory to attend to: RNN(cell)(x, context=(a, mask))")
        if "state_noise" in w:
            raise UserError(f"{who} takes no state_dropout; drop its inputs or outputs instead")

    @nn.nowrap
    def _width(self) -> int:
        """H, of what the inner cell exposes."""
        carry = self.cell.initialize_carry(jax.random.key(0), (1, 1))
        return self.cell.exposed(carry).shape[-1]


class BahdanauCell(_AttentionCell):
    """Looks before it steps:

        alpha = softmax_s(v . tanh(W h_{t-1} + U a_s));  c_t = sum_s alpha_s a_s
        h_t = cell(h_{t-1}, [x_t; c_t])

    The output is `[h_t; c_t; alpha]`, H + C + S wide; the carry is the inner cell's.

    Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
    translate".
    """

    @nn.compact
    def weights(self, input_features: int):
        memory = self.memory_features
        return {
            "cell": self.cell.weights(input_features + memory),
            "W": self._matrix("W", self._width(), self.features),
            "U": self._matrix("U", memory, self.features),
            "v": self._matrix("v", self.features, 1),
        }

    @nn.nowrap
    def with_context(self, w, context):
        memory, mask = self.cast(context[0]), context[1]
        return {**w, "memory": memory, "mask": mask, "keys": memory @ w["U"]}

    @nn.nowrap
    def step(self, w, carry, x):
        self._check(w)
        dtype = jnp.promote_types(x.dtype, w["W"].dtype)
        query = self.cell.exposed(carry).astype(dtype) @ w["W"]
        alpha = attention_weights(additive_scores(query, w["keys"], w["v"][:, 0]), w["mask"])
        c = attend(alpha, w["memory"])
        carry, h = self._inner_step(w, carry, jnp.concatenate([x, c], axis=-1))
        return carry, jnp.concatenate([h, c, alpha], axis=-1)

    @nn.nowrap
    def exposed(self, carry):
        return self.cell.exposed(carry)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return self.cell.initialize_carry(rng, input_shape)


class LuongCell(_AttentionCell):
    """Looks after it stepped, and feeds what it made of it into the next step:

        h_t = cell(h_{t-1}, [x_t; s_{t-1}])
        alpha = softmax_s(h_t . W a_s);  c_t = sum_s alpha_s a_s;  s_t = tanh(W_c [c_t; h_t])

    The output is `[s_t; alpha]`, A + S wide; the carry is (the inner cell's, s).

    Luong, Pham & Manning 2015, "Effective approaches to attention-based neural machine
    translation", global attention, the form 'general', with input feeding.
    """

    @nn.compact
    def weights(self, input_features: int):
        memory, width = self.memory_features, self._width()
        return {
            "cell": self.cell.weights(input_features + self.features),
            "W": self._matrix("W", memory, width),
            "W_c": self._matrix("W_c", memory + width, self.features),
        }

    @nn.nowrap
    def with_context(self, w, context):
        memory, mask = self.cast(context[0]), context[1]
        return {**w, "memory": memory, "mask": mask, "keys": memory @ w["W"]}

    @nn.nowrap
    def step(self, w, carry, x):
        self._check(w)
        inner, s = carry
        shown = s.astype(jnp.promote_types(x.dtype, w["W"].dtype))
        inner, h = self._inner_step(w, inner, jnp.concatenate([x, shown], axis=-1))
        alpha = attention_weights(multiplicative_scores(h, w["keys"]), w["mask"])
        c = attend(alpha, w["memory"])
        s = jnp.tanh(jnp.concatenate([c, h], axis=-1) @ w["W_c"])
        return (inner, at_least_float32(s)), jnp.concatenate([s, alpha], axis=-1)

    @nn.nowrap
    def exposed(self, carry):
        return carry[1]

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        inner = self.cell.initialize_carry(rng, input_shape)
        shape = (*input_shape[:-1], self.features)
        return inner, jnp.zeros(shape, state_dtype(self.dtype or self.param_dtype))

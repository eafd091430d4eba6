"""A recurrent layer over the sequence, a linear layer over what it kept: one output, or many."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import check_choice
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense
from nn_lib.layers.precision import Composite


class SequenceClassifier(Composite):
    """Classifies `[B, T, F]` sequences; `(inputs, ...) -> (logits [B, num_classes], carry)`.

    Attributes:
      layer: the sequence layer, such as `RNN(GRUCell(64))` or a `Bidirectional`.
      readout: what the linear layer sees: 'all' the outputs of every step side by side (which
        fixes T), their 'mean' over the unmasked steps, or the 'last' unmasked one. With 'every' it
        sees each step by itself, and the logits are `[B, T, num_classes]`.
      num_classes: None gives the read-out features.
      embedding: width of a linear layer on every step's inputs; 0 is none.
      dtype: of the computation, here and in the layer; None is that of the inputs.
    """

    layer: nn.Module
    readout: str = "last"
    num_classes: int | None = None
    embedding: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs, carry=None, reset=None, mask=None, train: bool = False):
        check_choice("SequenceClassifier.readout", self.readout, READOUTS)
        if self.embedding:
            inputs = Dense(self.embedding, dtype=self.dtype)(inputs)
        carry, outputs = self.layer(
            inputs, mask=mask, reset=reset, initial_carry=carry, train=train
        )
        if mask is None:
            mask = jnp.ones(outputs.shape[:2], bool)
        x = READOUTS[self.readout](outputs, mask)
        if self.num_classes is not None:
            x = at_least_float32(Dense(self.num_classes, dtype=self.dtype)(x))
        return x, carry

    @nn.nowrap
    def initialize_carry(self, batch_size: int):
        return self.layer.initialize_carry(batch_size)


def last_step(outputs: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The output of each sequence's last unmasked step, `[B, T, F] -> [B, F]`."""
    if mask is None:
        return outputs[:, -1]
    steps = outputs.shape[1]
    index = jnp.max(jnp.where(mask, jnp.arange(steps), 0), axis=1)
    return jnp.take_along_axis(outputs, index[:, None, None], axis=1)[:, 0]


def _mean(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    return outputs.sum(1) / jnp.maximum(mask.sum(1, keepdims=True), 1)


def _all(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    return outputs.reshape(outputs.shape[0], -1)


def _every(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    del mask
    return outputs


READOUTS = {"last": last_step, "mean": _mean, "all": _all, "every": _every}

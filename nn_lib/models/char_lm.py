"""A character language model: embedding, stacked recurrent layers, next-character logits.

Karpathy, "The unreasonable effectiveness of recurrent neural networks", 2015; Sutskever, Martens
& Hinton 2011, "Generating text with recurrent neural networks".
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense, Embed
from nn_lib.layers.precision import Composite
from nn_lib.recurrent import RNN, LSTMCell, Stacked


class CharLM(Composite):
    """`(tokens int[B, T], carry, reset) -> (logits [B, T, vocab_size], carry)`.

    Attributes:
      vocab_size: None is filled in from the corpus by `nn_lib.train.fit`.
      cell: the cell of every layer; `num_layers` of them are stacked.
      embedding: width of the character vectors; 0 reads one-hot vectors.
      dropout: between the layers and before the output.
      output_init: of the output layer's kernel.
      dtype: of the computation, here and in the cell; None is float32.
    """

    vocab_size: int | None = None
    cell: nn.RNNCellBase = dataclasses.field(default_factory=lambda: LSTMCell(256))
    num_layers: int = 1
    embedding: int = 0
    dropout: float = 0.0
    output_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = None

    def setup(self):
        if self.embedding:
            self.embed = Embed(self.vocab_size, self.embedding, dtype=self.dtype)
        self.recurrent = self._stack()
        self.drop = nn.Dropout(self.dropout)
        self.output = Dense(self.vocab_size, kernel_init=self.output_init, dtype=self.dtype)

    def __call__(self, inputs, carry=None, reset=None, mask=None, train: bool = False):
        # One-hot times a kernel is a row look-up; the driver's projection does it as a product.
        x = (
            self.embed(inputs)
            if self.embedding
            else jnp.eye(self.vocab_size, dtype=self.dtype)[inputs]
        )
        carry, x = self.recurrent(x, mask=mask, reset=reset, initial_carry=carry, train=train)
        x = self.drop(x, deterministic=not train)
        return at_least_float32(self.output(x)), carry

    @nn.nowrap
    def initialize_carry(self, batch_size: int):
        return self._stack().initialize_carry(batch_size)

    @nn.nowrap
    def _stack(self):
        layers = [RNN(self.cell.clone(parent=None)) for _ in range(self.num_layers)]
        return Stacked(layers, dropout=self.dropout)

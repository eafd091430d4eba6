"""A tag for every token: token vectors, a layer in both directions, a linear layer on each step.

Graves & Schmidhuber 2005, "Framewise phoneme classification with bidirectional LSTM"; Huang, Xu &
Yu 2015, "Bidirectional LSTM-CRF models for sequence tagging", its form without the CRF.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense, Embed
from nn_lib.layers.precision import Composite
from nn_lib.recurrent import RNN, Bidirectional, LSTMCell


class SequenceTagger(Composite):
    """`(tokens int[B, T], mask bool[B, T]) -> logits [B, T, num_classes]`.

    Attributes:
      layer: any sequence layer.
      vocab_size: None is filled in from the data, as `num_classes`.
      embedding: width of the token vectors; 0 reads one-hot vectors.
      dropout: of the token vectors and of the layer's outputs.
      dtype: of the computation, here and in the layer; None is float32.
    """

    layer: nn.Module = dataclasses.field(
        default_factory=lambda: Bidirectional(RNN(LSTMCell(128)), RNN(LSTMCell(128), reverse=True))
    )
    vocab_size: int | None = None
    num_classes: int | None = None
    embedding: int = 64
    dropout: float = 0.2
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs, mask=None, train=False):
        if self.embedding:
            x = Embed(self.vocab_size, self.embedding, dtype=self.dtype)(inputs)
        else:
            x = jnp.eye(self.vocab_size, dtype=self.dtype)[inputs]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        _, x = self.layer(x, mask=mask, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return at_least_float32(Dense(self.num_classes, dtype=self.dtype)(x))

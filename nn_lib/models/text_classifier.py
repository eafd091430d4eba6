"""Classifiers of texts: token vectors, an encoder that makes one vector of them, a linear layer.

The encoders here are `MeanOverTime` (a bag of words), `ConvOverTime` (Kim 2014) and
`RecurrentEncoder` (last state, mean, or attention). Padding changes no output.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import check_choice
from nn_lib.layers import Conv
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.attention import AttentionPooling
from nn_lib.layers.dense import Dense, Embed
from nn_lib.layers.precision import Composite
from nn_lib.recurrent import RNN, Bidirectional, LSTMCell, Stacked


class MeanOverTime(nn.Module):
    """The mean of the token vectors, `([B, T, F], mask) -> [B, F]`: order does not matter."""

    @nn.compact
    def __call__(self, x, mask, train: bool = False):
        return jnp.sum(x * mask[..., None], axis=1) / jnp.maximum(mask.sum(1, keepdims=True), 1)


class ConvOverTime(nn.Module):
    """Filters over windows of tokens, each with its maximum over time.

    `c_t = relu(w . x_{t:t+k-1} + b)`, output `max_t c_t`, for `features` filters of every width k;
    `([B, T, F], mask) -> [B, features * len(windows)]`. Windows hang over both ends of a text by
    k - 1 zeros, so that the shortest text has some.

    Kim 2014, "Convolutional neural networks for sentence classification".
    """

    windows: Sequence[int] = (3, 4, 5)
    features: int = 100
    dtype: Any = None

    @nn.compact
    def __call__(self, x, mask, train: bool = False):
        x = x * mask[..., None]
        found = []
        for width in self.windows:
            hang = ((width - 1, width - 1),)
            c = nn.relu(Conv(self.features, (width,), padding=hang, dtype=self.dtype)(x))
            # A window counts where it holds a token.
            held = jnp.stack(
                [jnp.pad(mask, ((0, 0), (at, width - 1 - at))) for at in range(width)]
            ).any(0)
            found.append(jnp.max(jnp.where(held[..., None], c, 0), axis=1))  # c is at least 0
        return jnp.concatenate(found, axis=-1)


class RecurrentEncoder(Composite):
    """A recurrent layer, and one vector from its outputs.

    Attributes:
      layer: `RNN`, `Bidirectional` or `Stacked`.
      pooling: 'attention' (Yang et al. 2016), 'mean', 'max', or 'last', the states in which the
        topmost layer ends, in each of its directions.
    """

    layer: nn.Module = dataclasses.field(
        default_factory=lambda: Bidirectional(RNN(LSTMCell(128)), RNN(LSTMCell(128), reverse=True))
    )
    pooling: str = "attention"
    dtype: Any = None

    @nn.compact
    def __call__(self, x, mask, train: bool = False):
        check_choice("RecurrentEncoder.pooling", self.pooling, POOLINGS)
        carry, outputs = self.layer(x, mask=mask, train=train)
        if self.pooling == "attention":
            return AttentionPooling(outputs.shape[-1], dtype=self.dtype)(outputs, mask)
        if self.pooling == "mean":
            return MeanOverTime()(outputs, mask)
        if self.pooling == "max":
            top = jnp.max(jnp.where(mask[..., None], outputs, -jnp.inf), axis=1)
            return jnp.where(mask.any(1, keepdims=True), top, 0)
        return _last_states(self.layer, carry).astype(outputs.dtype)


def _last_states(layer, carry) -> jax.Array:
    """What the topmost layer exposes of its last carry, its directions side by side."""
    if isinstance(layer, Stacked):
        return _last_states(layer.layers[-1], carry[-1])
    if isinstance(layer, Bidirectional):
        both = zip((layer.forward, layer.backward), carry)
        return jnp.concatenate([_last_states(*one) for one in both], axis=-1)
    return layer.cell.exposed(carry)


POOLINGS = ("attention", "mean", "max", "last")


class TextClassifier(Composite):
    """`(tokens int[B, T], mask bool[B, T]) -> logits [B, num_classes]`.

    Attributes:
      encoder: one of the above, or any module `([B, T, F], mask, train) -> [B, D]`.
      vocab_size: None is filled in from the data, as `num_classes`.
      embedding: width of the token vectors; 0 reads one-hot vectors.
      dropout: of what the encoder makes of the token vectors.
      embedding_dropout: of the token vectors.
      dtype: of the computation, here and in the encoder; None is float32.
    """

    encoder: nn.Module = dataclasses.field(default_factory=ConvOverTime)
    vocab_size: int | None = None
    num_classes: int | None = None
    embedding: int = 100
    dropout: float = 0.5
    embedding_dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs, mask=None, train=False):
        if mask is None:
            mask = jnp.ones(inputs.shape, bool)
        if self.embedding:
            x = Embed(self.vocab_size, self.embedding, dtype=self.dtype)(inputs)
        else:
            x = jnp.eye(self.vocab_size, dtype=self.dtype)[inputs]
        x = nn.Dropout(self.embedding_dropout, deterministic=not train)(x)
        x = self.encoder(x, mask, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.num_classes is not None:
            x = at_least_float32(Dense(self.num_classes, dtype=self.dtype)(x))
        return x

"""Encoder and decoder: one sequence read, another written, with or without attention.

Without attention the encoder's last state is all that the decoder gets (Sutskever, Vinyals & Le
2014, "Sequence to sequence learning with neural networks"; they read the source reversed). With
attention the decoder looks back at every step (Bahdanau, Cho & Bengio 2015; Luong, Pham & Manning
2015).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import check_choice
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense, Embed
from nn_lib.layers.precision import Composite
from nn_lib.recurrent import RNN, BahdanauCell, Bidirectional, LSTMCell, LuongCell, Stacked
from nn_lib.recurrent.cell import Cell

ATTENTIONS: dict[str, Any] = {"none": None, "bahdanau": BahdanauCell, "luong": LuongCell}


class Seq2Seq(Composite):
    """`(source int[B, S], targets int[B, T], mask bool[B, S]) -> logits [B, T, target_size]`.

    `targets` are the tokens to be predicted; the decoder reads them one step later, behind the
    token `start`. For decoding, `read` gives what `step` goes on from.

    Attributes:
      vocab_size: of the source; None is filled in from the data, as `target_size`.
      cell: of every layer, on both sides.
      num_layers: of the encoder and of the decoder; a decoder with attention has it in its first.
      attention: 'none', 'bahdanau' or 'luong'.
      attention_features: width of the attention's hidden layer, or of its output (Luong); 0 is the
        cell's.
      bidirectional: an encoder in both directions; the decoder then begins with
        `tanh(W [both last states])`, as it does with attention; otherwise with the last states.
      reverse_source: an encoder of one direction reads the source from its end.
      embedding: width of the token vectors.
      dropout: of the token vectors, between the layers, and before the output.
      dtype: of the computation, here and in the cells; None is float32.
    """

    vocab_size: int | None = None
    target_size: int | None = None
    cell: Cell = dataclasses.field(default_factory=lambda: LSTMCell(128))
    num_layers: int = 1
    attention: str = "none"
    attention_features: int = 0
    bidirectional: bool = False
    reverse_source: bool = False
    embedding: int = 64
    dropout: float = 0.0
    start: int = 0
    dtype: Any = None

    def setup(self):
        check_choice("Seq2Seq.attention", self.attention, ATTENTIONS)
        self.embed_source = Embed(self.vocab_size, self.embedding, dtype=self.dtype)
        self.embed_target = Embed(self.target_size, self.embedding, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        layers = [self._encoding_layer() for _ in range(self.num_layers)]
        self.encoder = Stacked(layers, self.dropout)
        plain = [RNN(self._cell()) for _ in range(self.num_layers)]
        kind = ATTENTIONS[self.attention]
        if kind is not None:
            width = self.cell.features
            memory = (2 if self.bidirectional else 1) * width
            features = self.attention_features or width
            attending = kind(
                features, cell=self._cell(), memory_features=memory, dtype=self.cell.dtype
            )
            self.looking = RNN(attending)
            self.readout = Dense(width, dtype=self.dtype)
            plain = plain[1:]
        self.decoder = Stacked(plain, self.dropout)
        if self._bridged:
            states = jax.tree.leaves(self._zero_carry())
            self.bridge = [Dense(leaf.shape[-1], dtype=self.dtype) for leaf in states]
        self.output = Dense(self.target_size, dtype=self.dtype)

    def __call__(
        self,
        inputs: jax.Array,
        targets: jax.Array | None = None,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        carry, memory = self.read(inputs, mask, train=train)
        start = jnp.full((len(inputs), 1), self.start, jnp.int32)
        shown = start if targets is None else jnp.concatenate([start, targets[:, :-1]], axis=1)
        return self._write(carry, shown, memory, train)[1]

    def read(self, inputs: jax.Array, mask: jax.Array | None = None, train: bool = False):
        """Encodes the source: `(the decoder's carry, the memory (outputs [B, S, C], mask))`."""
        if mask is None:
            mask = jnp.ones(inputs.shape, bool)
        x = self.drop(self.embed_source(inputs), deterministic=not train)
        states, outputs = self.encoder(x, mask=mask, train=train)
        outputs = self.drop(outputs, deterministic=not train)
        if not self._bridged:
            return states, (outputs, mask)
        last = jnp.concatenate(jax.tree.leaves(states[-1]), axis=-1)
        zeros, structure = jax.tree.flatten(self._zero_carry())
        first = [jnp.tanh(dense(last)) for dense in self.bridge]
        if self.cell.dtype is not None:
            first = [leaf.astype(zero.dtype) for leaf, zero in zip(first, zeros)]
        return jax.tree.unflatten(structure, first), (outputs, mask)

    def step(self, carry, token: jax.Array, memory, train: bool = False):
        """One token more: `(carry, token int[B], memory) -> (carry, logits [B, target_size])`."""
        carry, logits, _ = self._write(carry, token[:, None], memory, train)
        return carry, logits[:, 0]

    def align(self, inputs: jax.Array, targets: jax.Array, mask: jax.Array | None = None):
        """The weights alpha `[B, T, S]` with which each target token looked at the source."""
        carry, memory = self.read(inputs, mask)
        start = jnp.full((len(inputs), 1), self.start, jnp.int32)
        shown = jnp.concatenate([start, targets[:, :-1]], axis=1)
        return self._write(carry, shown, memory, False)[2]

    def _write(self, carry, shown, memory, train: bool):
        """Logits for the tokens that follow those shown, and the attention weights."""
        x = self.drop(self.embed_target(shown), deterministic=not train)
        if self.attention == "none":
            carry, x = self.decoder(x, initial_carry=carry, train=train)
            weights = None
        else:
            steps = memory[0].shape[1]
            first, rest = carry
            first, outputs = self.looking(x, initial_carry=first, context=memory, train=train)
            seen, weights = outputs[..., :-steps], outputs[..., -steps:]
            x = jnp.tanh(self.readout(jnp.concatenate([seen, x], axis=-1)))
            if self.num_layers > 1:
                rest, x = self.decoder(x, initial_carry=rest, train=train)
            carry = (first, rest)
        x = self.drop(x, deterministic=not train)
        return carry, at_least_float32(self.output(x)), weights

    @property
    def _bridged(self) -> bool:
        """Whether the decoder's first state is made from the encoder's last one by a layer."""
        return self.attention != "none" or self.bidirectional

    @nn.nowrap
    def _cell(self) -> Cell:
        return self.cell.clone(parent=None)

    @nn.nowrap
    def _encoding_layer(self) -> nn.Module:
        if self.bidirectional:
            return Bidirectional(RNN(self._cell()), RNN(self._cell(), reverse=True))
        return RNN(self._cell(), reverse=self.reverse_source)

    @nn.nowrap
    def _zero_carry(self):
        """A carry of the decoder for one sequence, for its structure."""
        if self.attention == "none":
            return self.decoder.initialize_carry(1)
        return self.looking.initialize_carry(1), self.decoder.initialize_carry(1)

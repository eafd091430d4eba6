"""The name classifier of the character-level tutorial, exactly as the lecture prints it.

    combined = [x_t; h_{t-1}];  h_t = W_h combined + b_h;  y_t = log softmax(W_o combined + b_o)

There is no tanh, and y_t sees the old state: the logits are an affine function of the letters, and
the last letter's h_t is never used. With 57 letters, 128 units and 18 languages it has 27,156
parameters. Robertson, "Classifying names with a character-level RNN", in its form of 2017.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.activations import at_least_float32
from nn_lib.models.sequence_classifier import last_step
from nn_lib.recurrent import RNN
from nn_lib.recurrent.cell import Cell


class TutorialCell(Cell):
    """The step above; the carry is h `[B, features]`, the output `W_o combined + b_o`.

    Attributes:
      outputs: the number of classes.
    """

    outputs: int = 18

    @nn.compact
    def weights(self, input_features: int):
        fan_in = input_features + self.features

        def uniform(key, shape, dtype):  # torch's Linear: within 1 / sqrt(fan-in)
            return jax.random.uniform(key, shape, dtype, -1, 1) / jnp.sqrt(fan_in)

        shapes = {"h": self.features, "o": self.outputs}
        w = {
            f"{kind}_{name}": self.param(f"{kind}_{name}", uniform, shape, self.param_dtype)
            for name, width in shapes.items()
            for kind, shape in (("W", (fan_in, width)), ("b", (width,)))
        }
        return self.cast(w)

    @nn.nowrap
    def step(self, w, h, x):
        seen = h.astype(jnp.promote_types(x.dtype, w["W_h"].dtype))
        combined = jnp.concatenate([x, seen], axis=-1)
        h = at_least_float32(combined @ w["W_h"] + w["b_h"])
        return h, combined @ w["W_o"] + w["b_o"]


class NameRNN(nn.Module):
    """`(letters int[B, T], mask) -> logits [B, num_classes]`, of each name's last letter.

    Attributes:
      vocab_size: None is filled in from the data, as `num_classes`.
    """

    vocab_size: int | None = None
    num_classes: int | None = None
    features: int = 128
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs, mask=None, train=False):
        letters = jnp.eye(self.vocab_size, dtype=self.dtype)[inputs]
        cell = TutorialCell(self.features, outputs=self.num_classes, dtype=self.dtype)
        _, outputs = RNN(cell)(letters, mask=mask)
        return at_least_float32(last_step(outputs, mask))

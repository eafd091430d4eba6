"""The long short-term memory cell."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import sigmoid

from nn_lib.checks import check_choice
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.precision import add_bias
from nn_lib.recurrent import lstm_variants
from nn_lib.recurrent.cell import Cell
from nn_lib.recurrent.lstm_sequence import lstm_sequence
from nn_lib.recurrent.products import product


class LSTMCell(Cell):
    """Long short-term memory; the carry is `(c, h)`, each `[B, H]`, the output is h.

    ```
    (i, f, o, g) = (sigma, sigma, sigma, tanh)(W [h_{t-1}; x_t] + b)
    c_t = f . c_{t-1} + i . g
    h_t = o . tanh(c_t)
    ```
    Column blocks of the kernels are in the order i, f, o, g.

    Attributes:
      forget_bias: added to f's part of the bias at initialisation, so that the cell begins by
        remembering (Gers et al. 2000; Jozefowicz et al. 2015 recommend 1).
      gates: 'all'; 'coupled', i = 1 - f (blocks f, o, g; Greff et al. 2017); 'no_forget', f = 1
        (blocks i, o, g), the cell of 1997.
      peephole: i and f also see `p_i . c_{t-1}` and `p_f . c_{t-1}`, o sees `p_o . c_t` (Gers &
        Schmidhuber 2000).
      projection: P: the output and h are `W_hr (o . tanh(c))`, `[B, P]` (Sak et al. 2014); 0: none.
      layer_norm: the products with x and h, and c before its tanh, are normalised (Ba et al. 2016).

    Hochreiter & Schmidhuber 1997; the forget gate is of Gers, Schmidhuber & Cummins 2000.
    """

    forget_bias: float = 1.0
    gates: str = "all"
    peephole: bool = False
    projection: int = 0
    layer_norm: bool = False

    @nn.compact
    def weights(self, input_features: int):
        check_choice("LSTMCell: gates", self.gates, lstm_variants.GATES)
        w = self.affine_weights(
            input_features,
            blocks=len(lstm_variants.GATES[self.gates]),
            bias_init=functools.partial(lstm_variants.bias_init, self),
            recurrent_features=self.projection or self.features,
        )
        extra = lstm_variants.parameters(self)
        more = {name: self.param(name, *made, self.param_dtype) for name, made in extra.items()}
        return w | self.cast(more)

    @nn.nowrap
    def project(self, w, x):
        a = x @ w["kernel"]
        a = lstm_variants.standardize(a, w["scale_x"]) if self.layer_norm else a
        return add_bias(a, w["bias"])

    @nn.nowrap
    def step(self, w, carry, projected):
        if not self.written_out:
            return lstm_variants.step(self, w, carry, projected)
        c, h = carry
        dtype = projected.dtype
        a = projected + self.seen(w, h, dtype) @ w["recurrent_kernel"]
        i, f, o, g = jnp.split(at_least_float32(a), 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (c, h), h.astype(dtype)

    @property
    def written_out(self) -> bool:
        """The gradient is written out for the plain cell."""
        return self.gates == "all" and not (self.peephole or self.projection or self.layer_norm)

    @nn.nowrap
    def sequence(self, w, carry, x, again, on):
        """All steps at once, `[T, B, ...]`, by the gradient written out in `lstm_sequence`."""
        projected = product(x, w["kernel"])
        return lstm_sequence(w["recurrent_kernel"], w["bias"], projected, carry, again, on)

    @nn.nowrap
    def exposed(self, carry):
        return carry[1]

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        """c = h = 0."""
        c = super().initialize_carry(rng, input_shape)
        return c, jnp.zeros((*c.shape[:-1], self.projection or self.features), c.dtype)

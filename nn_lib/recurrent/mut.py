"""MUT1, MUT2 and MUT3: the three best cells of a search over ten thousand architectures."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.precision import add_bias
from nn_lib.recurrent.cell import Cell


class MUT1Cell(Cell):
    """The carry and the output are `h [B, H]`; the inputs must be `[B, H]` too.

    ```
    z = sigma(W_xz x_t + b_z)
    r = sigma(W_xr x_t + W_hr h_{t-1} + b_r)
    u = tanh(W_hh (r . h_{t-1}) + tanh(x_t) + b_h)
    h_t = u . z + h_{t-1} . (1 - z)
    ```
    Blocks: the kernel r, z; the recurrent kernel r, h; the bias r, z, h. Here z weighs the
    candidate, in a GRU the old state.

    Jozefowicz, Zaremba & Sutskever 2015, "An empirical exploration of recurrent network
    architectures".
    """

    @nn.compact
    def weights(self, input_features: int):
        _check_square(self, input_features, "tanh(x_t) is added to W_hh (r . h)")
        return self.affine_weights(input_features, blocks=2, recurrent_blocks=2, bias_blocks=3)

    @nn.nowrap
    def project(self, w, x):
        return add_bias(jnp.concatenate([x @ w["kernel"], jnp.tanh(x)], axis=-1), w["bias"])

    @nn.nowrap
    def step(self, w, carry, projected):
        seen = self.seen(w, carry, projected.dtype)
        x_r, x_z, x_u = jnp.split(projected, 3, axis=-1)
        W_hr, W_hh = jnp.split(w["recurrent_kernel"], 2, axis=-1)
        r = jax.nn.sigmoid(x_r + seen @ W_hr)
        return _mix(carry, _gate(x_z), (r * seen) @ W_hh + x_u)


class MUT2Cell(Cell):
    """The carry and the output are `h [B, H]`; the inputs must be `[B, H]` too.

    ```
    z = sigma(W_xz x_t + W_hz h_{t-1} + b_z)
    r = sigma(x_t + W_hr h_{t-1} + b_r)
    u = tanh(W_hh (r . h_{t-1}) + W_xh x_t + b_h)
    h_t = u . z + h_{t-1} . (1 - z)
    ```
    Blocks: the kernel z, h; the recurrent kernel and the bias r, z, h. Jozefowicz et al. 2015.
    """

    @nn.compact
    def weights(self, input_features: int):
        _check_square(self, input_features, "x_t itself is added to W_hr h")
        return self.affine_weights(input_features, blocks=2, recurrent_blocks=3, bias_blocks=3)

    @nn.nowrap
    def project(self, w, x):
        return add_bias(jnp.concatenate([x, x @ w["kernel"]], axis=-1), w["bias"])

    @nn.nowrap
    def step(self, w, carry, projected):
        seen = self.seen(w, carry, projected.dtype)
        return _gated(w, carry, seen, seen, projected)


class MUT3Cell(Cell):
    """As MUT2, with `W_xr x_t` in r and `W_hz tanh(h_{t-1})` in z, for inputs of any width.

    ```
    z = sigma(W_xz x_t + W_hz tanh(h_{t-1}) + b_z)
    r = sigma(W_xr x_t + W_hr h_{t-1} + b_r)
    u = tanh(W_hh (r . h_{t-1}) + W_xh x_t + b_h)
    h_t = u . z + h_{t-1} . (1 - z)
    ```
    All blocks are r, z, h. Jozefowicz et al. 2015.
    """

    @nn.compact
    def weights(self, input_features: int):
        return self.affine_weights(input_features, blocks=3)

    @nn.nowrap
    def project(self, w, x):
        return add_bias(x @ w["kernel"], w["bias"])

    @nn.nowrap
    def step(self, w, carry, projected):
        seen = self.seen(w, carry, projected.dtype)
        return _gated(w, carry, seen, jnp.tanh(seen), projected)


def _gated(w, h, seen, seen_by_z, projected):
    """What MUT2 and MUT3 share: the gate z reads `seen_by_z`, the other products `seen`."""
    x_r, x_z, x_u = jnp.split(projected, 3, axis=-1)
    W_hr, W_hz, W_hh = jnp.split(w["recurrent_kernel"], 3, axis=-1)
    z = _gate(x_z + seen_by_z @ W_hz)
    r = jax.nn.sigmoid(x_r + seen @ W_hr)
    return _mix(h, z, (r * seen) @ W_hh + x_u)


def _gate(a):
    return jax.nn.sigmoid(at_least_float32(a))


def _mix(h, z, a):
    """The new state and the output, for `u = tanh(a)`."""
    h = jnp.tanh(at_least_float32(a)) * z + h * (1 - z)
    return h, h.astype(a.dtype)


def _check_square(cell: Cell, input_features: int, reason: str) -> None:
    if input_features != cell.features:
        name = type(cell).__name__
        raise UserError(
            f"{name} expects inputs [B, {cell.features}] like its state, got [B, {input_features}]"
            f": {reason}; project the inputs to {cell.features} before, or use MUT3Cell"
        )

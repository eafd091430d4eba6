"""The LSTM over a whole sequence, with the gradient of its scan written out.

Reverse-mode through `lax.scan` keeps every intermediate of a step and adds up the weight gradient
once a step. Here the forward pass keeps the gates and the states; what the backward loop needs of
them is computed for all steps at once before it, and the weight gradient is one product after it.

In half precision the operands of products have it, and most of what is kept; the states, their
cotangents and the gates, which add up and multiply over the steps, are float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nn_lib.layers.activations import at_least_float32
from nn_lib.recurrent.flags import held, kept, previous, where
from nn_lib.recurrent.products import restored, saved, tanh, weight_gradient


@jax.custom_vjp
def lstm_sequence(recurrent_kernel, bias, projected, carry, again, on):
    """Runs the LSTM of `lstm.LSTMCell` over time.

    Args:
      recurrent_kernel: `W_h [H, 4H]`, columns i, f, o, g.
      bias: `[4H]`; it is added within the loop, where that costs nothing.
      projected: `[T, B, 4H]`, the input product.
      carry: `(c, h)`, each `[B, H]`, float32 at least.
      again: `bool[T, B, 1]`, the state returns to zero before the step; or None.
      on: `bool[T, B, 1]`, the step counts, else the state stays and the output is zero; or None.

    Returns:
      `((c, h), outputs [T, B, H])`.
    """
    result, h = _forward(recurrent_kernel, bias, projected, carry, again, on, save=False)
    return result, where(on, h, 0)


def _forward(recurrent_kernel, bias, projected, carry, again, on, *, save: bool):
    """The final carry, and the states h of every step; to save, (t as `saved` keeps it, the cell
    states c, the h before the steps, h).

    The blocks i, f, o of t are `tanh(a / 2)`, whence the gates are `sigma(a) = (t + 1) / 2`, and
    the block g is `tanh(a)`: one tanh over the whole width, which is faster than over parts.
    """
    dtype, half = projected.dtype, _halves(bias)

    def step(carry, now):
        x, again, on = now
        c_before, h_before = kept(again, carry)
        operand = h_before.astype(dtype)
        a = x + operand @ recurrent_kernel + bias
        t = tanh(at_least_float32(a) * half)
        i, f, o, g = jnp.split(t, 4, axis=-1)
        c = (0.5 * f + 0.5) * c_before + (0.5 * i + 0.5) * g
        h = (0.5 * o + 0.5) * tanh(c)
        c, h = where(on, c, c_before), where(on, h, h_before)
        output = h.astype(dtype)
        return (c, h), (saved(a, t), c, operand, output) if save else output

    return lax.scan(step, carry, (projected, again, on))


def _save(recurrent_kernel, bias, projected, carry, again, on):
    result, (t, c, h_before, h) = _forward(
        recurrent_kernel, bias, projected, carry, again, on, save=True
    )
    needed = (recurrent_kernel, bias, carry[0], again, on, t, c, h_before)
    return (result, where(on, h, 0)), needed


def _gradient(needed, cotangent):
    recurrent_kernel, bias, c_0, again, on, t, c, h_before = needed
    (dc, dh), d_outputs = cotangent
    dtype, t = h_before.dtype, restored(t, _halves(bias))
    i, f, o, g = jnp.split(t, 4, axis=-1)
    c_before = kept(again, previous(c_0, c))
    tanh_c = tanh(c)
    c_of_h = (0.5 * o + 0.5) * (1 - tanh_c**2)  # dh_t / dc_t
    # d(c_t or h_t) / da, block by block: i, f, g act on c_t, o acts on h_t.
    k_i, k_f = g * (0.25 - 0.25 * i**2), c_before * (0.25 - 0.25 * f**2)
    k_o, k_g = tanh_c * (0.25 - 0.25 * o**2), (0.5 * i + 0.5) * (1 - g**2)
    k = where(on, jnp.concatenate([k_i, k_f, k_o, k_g], axis=-1), 0).astype(dtype)
    c_of_h = where(on, c_of_h, 0)
    forget = where(on, 0.5 * f + 0.5, 1)
    transposed = recurrent_kernel.T

    def step(state, now):
        dc, dh = state
        d_out, a, k, f, again, on = now
        through = held(on, dh)
        dh = dh + d_out
        dc = dc + dh * a
        d = (k * jnp.concatenate([dc, dc, dh, dc], axis=-1)).astype(dtype)
        return kept(again, (dc * f, at_least_float32(d @ transposed) + through)), d

    steps = (where(on, d_outputs, 0), c_of_h, k, forget, again, on)
    d_carry, d = lax.scan(step, (dc, dh), steps, reverse=True)
    return weight_gradient(h_before, d), d.sum((0, 1)), d, d_carry, None, None


def _halves(bias) -> np.ndarray:
    """The factors of a within the tanh, `[4H]`."""
    wide = jnp.promote_types(bias.dtype, jnp.float32)
    return np.repeat([0.5, 0.5, 0.5, 1.0], len(bias) // 4).astype(wide)


lstm_sequence.defvjp(_save, _gradient)

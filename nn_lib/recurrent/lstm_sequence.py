"""The LSTM over a whole sequence, with the gradient of its scan written out.

Reverse-mode through `lax.scan` keeps every intermediate of a step and adds up the weight gradient
once a step. Here the forward pass keeps the gates and the cell states; what the backward loop
needs of them is computed for all steps at once before it, and the weight gradient is one product
after it.
"""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def lstm_sequence(recurrent_kernel, projected, keep, carry):
    """Runs the LSTM of `lstm.LSTMCell` over time.

    Args:
      recurrent_kernel: `W_h [H, 4H]`, columns i, f, o, g, those of the gates i, f, o halved.
      projected: `[T, B, 4H]`, the input product and bias, halved alike: then all four blocks of
        `t = tanh(projected + h W_h)` come from one tanh, and `sigma = (t + 1) / 2` for the gates.
      keep: `[T, B, 1]`, 0 where the state returns to zero before the step, else 1.
      carry: `(c, h)`, each `[B, H]`.

    Returns:
      `((c, h), outputs [T, B, H])`.
    """
    return _forward(recurrent_kernel, projected, keep, carry)[0]


def _forward(recurrent_kernel, projected, keep, carry):
    """The result, and (gates t, cell states c) of every step."""

    def step(carry, now):
        c, h = carry
        x, k = now
        t = jnp.tanh(x + (k * h) @ recurrent_kernel)
        i, f, o, g = jnp.split(t, 4, axis=-1)
        c = (0.5 * f + 0.5) * (k * c) + (0.5 * i + 0.5) * g
        h = (0.5 * o + 0.5) * jnp.tanh(c)
        return (c, h), (t, c, h)

    carry, (t, c, h) = lax.scan(step, carry, (projected, keep))
    return (carry, h), (t, c, h)


def _save(recurrent_kernel, projected, keep, carry):
    result, (t, c, h) = _forward(recurrent_kernel, projected, keep, carry)
    return result, (recurrent_kernel, keep, carry, t, c, h)


def _gradient(saved, cotangent):
    recurrent_kernel, keep, (c_0, h_0), t, c, h = saved
    (dc, dh), d_outputs = cotangent
    i, f, o, g = jnp.split(t, 4, axis=-1)
    c_before = keep * jnp.concatenate([c_0[None], c[:-1]])
    h_before = keep * jnp.concatenate([h_0[None], h[:-1]])
    tanh_c = jnp.tanh(c)
    c_of_h = (0.5 * o + 0.5) * (1 - tanh_c**2)  # dh_t / dc_t
    # d(c_t or h_t) / d(argument of t), block by block: i, f, g act on c_t, o acts on h_t.
    k_i = g * (0.5 - 0.5 * i**2)
    k_f = c_before * (0.5 - 0.5 * f**2)
    k_o = tanh_c * (0.5 - 0.5 * o**2)
    k_g = (0.5 * i + 0.5) * (1 - g**2)
    forget = (0.5 * f + 0.5) * keep
    transposed = recurrent_kernel.T

    def step(state, now):
        dc, dh = state
        d_out, a, ki, kf, ko, kg, f_kept, k = now
        dh = dh + d_out
        dc = dc + dh * a
        d = jnp.concatenate([ki * dc, kf * dc, ko * dh, kg * dc], axis=-1)
        return (dc * f_kept, k * (d @ transposed)), d

    steps = (d_outputs, c_of_h, k_i, k_f, k_o, k_g, forget, keep)
    d_carry, d = lax.scan(step, (dc, dh), steps, reverse=True)
    d_kernel = jnp.einsum("tbh,tbg->hg", h_before, d)
    return d_kernel, d, jnp.zeros_like(keep), d_carry


lstm_sequence.defvjp(_save, _gradient)

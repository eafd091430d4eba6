"""The vanilla cell over a whole sequence, with the gradient of its scan written out.

See `lstm_sequence`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.recurrent.flags import held, kept, previous, where


@jax.custom_vjp
def vanilla_sequence(recurrent_kernel, projected, carry, again, on):
    """Runs `h_t = tanh(projected_t + h_{t-1} W_h)` over time.

    Args:
      recurrent_kernel: `W_h [H, H]`.
      projected: `[T, B, H]`, the input product and bias.
      carry: `h [B, H]`.
      again: `bool[T, B, 1]`, the state returns to zero before the step; or None.
      on: `bool[T, B, 1]`, the step counts, else the state stays and the output is zero; or None.

    Returns:
      `(h, outputs [T, B, H])`.
    """
    last, h = _forward(recurrent_kernel, projected, carry, again, on)
    return last, where(on, h, 0)


def _forward(recurrent_kernel, projected, carry, again, on):
    def step(h, now):
        x, again, on = now
        h_before = kept(again, h)
        h = where(on, jnp.tanh(x + h_before @ recurrent_kernel), h_before)
        return h, h

    return lax.scan(step, carry, (projected, again, on))


def _save(recurrent_kernel, projected, carry, again, on):
    last, h = _forward(recurrent_kernel, projected, carry, again, on)
    return (last, where(on, h, 0)), (recurrent_kernel, carry, again, on, h)


def _gradient(saved, cotangent):
    recurrent_kernel, h_0, again, on, h = saved
    dh, d_outputs = cotangent
    slopes = where(on, 1 - h**2, 0)
    transposed = recurrent_kernel.T

    def step(dh, now):
        d_out, slope, again, on = now
        through = held(on, dh)
        d = slope * (dh + d_out)
        return kept(again, d @ transposed + through), d

    steps = (where(on, d_outputs, 0), slopes, again, on)
    d_carry, d = lax.scan(step, dh, steps, reverse=True)
    h_before = kept(again, previous(h_0, h))
    d_kernel = jnp.einsum("tbh,tbg->hg", h_before, d).astype(recurrent_kernel.dtype)
    return d_kernel, d, d_carry, None, None


vanilla_sequence.defvjp(_save, _gradient)

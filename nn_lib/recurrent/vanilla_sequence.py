"""The vanilla cell over a whole sequence, with the gradient of its scan written out.

See `lstm_sequence`.
"""

import jax
from jax import lax

from nn_lib.layers.activations import at_least_float32
from nn_lib.recurrent.flags import held, kept, where
from nn_lib.recurrent.products import restored, tanh, weight_gradient


@jax.custom_vjp
def vanilla_sequence(recurrent_kernel, bias, projected, carry, again, on):
    """Runs `h_t = tanh(projected_t + h_{t-1} W_h + b)` over time.

    Args:
      recurrent_kernel: `W_h [H, H]`.
      bias: `[H]`.
      projected: `[T, B, H]`, the input product.
      carry: `h [B, H]`, float32 at least.
      again: `bool[T, B, 1]`, the state returns to zero before the step; or None.
      on: `bool[T, B, 1]`, the step counts, else the state stays and the output is zero; or None.

    Returns:
      `(h, outputs [T, B, H])`.
    """
    last, h = _forward(recurrent_kernel, bias, projected, carry, again, on, save=False)
    return last, where(on, h, 0)


def _forward(recurrent_kernel, bias, projected, carry, again, on, *, save: bool):
    """The final state, and the states h of every step; to save, (those before the steps, h, in
    half precision the a of `h = tanh(a)`, from which h follows in float32).
    """
    dtype = projected.dtype

    def step(h, now):
        x, again, on = now
        h_before = kept(again, h)
        operand = h_before.astype(dtype)
        a = x + operand @ recurrent_kernel + bias
        h = where(on, tanh(at_least_float32(a)), h_before)
        output = h.astype(dtype)
        return h, (operand, output, None if a.dtype == h.dtype else a) if save else output

    return lax.scan(step, carry, (projected, again, on))


def _save(recurrent_kernel, bias, projected, carry, again, on):
    last, (h_before, h, a) = _forward(
        recurrent_kernel, bias, projected, carry, again, on, save=True
    )
    needed = (recurrent_kernel, again, on, h_before, h if a is None else a)
    return (last, where(on, h, 0)), needed


def _gradient(needed, cotangent):
    recurrent_kernel, again, on, h_before, h = needed
    dh, d_outputs = cotangent
    dtype, h = h_before.dtype, restored(h, 1)
    transposed = recurrent_kernel.T

    def step(dh, now):
        d_out, h, again, on = now
        through = held(on, dh)
        d = where(on, (1 - h**2) * (dh + d_out), 0).astype(dtype)
        return kept(again, at_least_float32(d @ transposed) + through), d

    steps = (where(on, d_outputs, 0), h, again, on)
    d_carry, d = lax.scan(step, dh, steps, reverse=True)
    return weight_gradient(h_before, d), d.sum((0, 1)), d, d_carry, None, None


vanilla_sequence.defvjp(_save, _gradient)

"""The GRU over a whole sequence, both forms, with the gradient of its scan written out.

See `lstm_sequence`; with the reset before the product each step has two products, after it one.
"""

import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.layers.activations import at_least_float32
from nn_lib.recurrent.flags import kept, where
from nn_lib.recurrent.products import restored, saved, tanh, weight_gradient


@jax.custom_vjp
def gru_sequence(recurrent_kernel, bias, bias_hn, projected, carry, again, on):
    """Runs the GRU of `gru.GRUCell` over time.

    Args:
      recurrent_kernel: `W_h [H, 3H]`, columns r, z, n.
      bias: `[3H]`; it is added within the loop, where that costs nothing.
      bias_hn: `[H]` for the form with the reset after the product, None for the one before.
      projected: `[T, B, 3H]`, the input product.
      carry: `h [B, H]`, float32 at least.
      again: `bool[T, B, 1]`, the state returns to zero before the step; or None.
      on: `bool[T, B, 1]`, the step counts, else the state stays and the output is zero; or None.

    Returns:
      `(h, outputs [T, B, H])`.
    """
    last, h = _forward(recurrent_kernel, bias, bias_hn, projected, carry, again, on, save=False)
    return last, where(on, h, 0)


def _forward(recurrent_kernel, bias, bias_hn, projected, carry, again, on, *, save: bool):
    """The final state, and the states h of every step; to save, (t of r and z and n, both as
    `saved` keeps them, m, the h before the steps, h).

    The gates are `sigma(a) = (t + 1) / 2` for `t = tanh(a / 2)`, which is quicker. m is
    `h W_hh + b_hn`, which the reset gate multiplies; None where the reset comes before.
    """
    split = 2 * recurrent_kernel.shape[0]
    W_rz, W_hh = recurrent_kernel[:, :split], recurrent_kernel[:, split:]
    dtype = projected.dtype

    def step(h, now):
        x, again, on = now
        h_before = kept(again, h)
        x = x + bias
        x_rz, x_n = x[..., :split], x[..., split:]
        operand = h_before.astype(dtype)
        if bias_hn is None:
            a = x_rz + operand @ W_rz
            t = tanh(0.5 * at_least_float32(a))
            r, z = jnp.split(0.5 * t + 0.5, 2, axis=-1)
            m, a_n = None, x_n + (r * h_before).astype(dtype) @ W_hh
        else:
            product = operand @ recurrent_kernel
            a = x + product
            t = tanh(0.5 * at_least_float32(a))[..., :split]
            r, z = jnp.split(0.5 * t + 0.5, 2, axis=-1)
            m = product[..., split:] + bias_hn
            a_n = (x_n + r * m).astype(dtype)
        n = tanh(at_least_float32(a_n))
        h = where(on, z * h_before + (1 - z) * n, h_before)
        output = h.astype(dtype)
        if not save:
            return h, output
        return h, (saved(a, t), saved(a_n, n), m, h_before, output)

    return lax.scan(step, carry, (projected, again, on))


def _save(recurrent_kernel, bias, bias_hn, projected, carry, again, on):
    last, (*needed, h) = _forward(
        recurrent_kernel, bias, bias_hn, projected, carry, again, on, save=True
    )
    return (last, where(on, h, 0)), (recurrent_kernel, bias_hn, again, on, needed)


def _gradient(needed, cotangent):
    recurrent_kernel, bias_hn, again, on, (t, n, m, h_before) = needed
    dh, d_outputs = cotangent
    dtype, t, n = recurrent_kernel.dtype, restored(t, 0.5), restored(n, 1)
    split = 2 * recurrent_kernel.shape[0]
    W_rz, W_hh = recurrent_kernel[:, :split], recurrent_kernel[:, split:]
    t_r, t_z = jnp.split(t, 2, axis=-1)
    r, z = 0.5 * t_r + 0.5, 0.5 * t_z + 0.5
    # dh_t / d(arguments of n and z); of r's, what multiplies the cotangent of r . (...).
    k_n = where(on, (1 - z) * (1 - n**2), 0)
    k_z = where(on, (h_before - n) * (0.25 - 0.25 * t_z**2), 0)
    stay = where(on, z, 1)
    d_outputs = where(on, d_outputs, 0)

    if bias_hn is None:
        k_r = where(on, h_before * (0.25 - 0.25 * t_r**2), 0)
        W_rz_T, W_hh_T = W_rz.T, W_hh.T
        reset = where(on, r, 0)

        def step(dh, now):
            d_out, kn, kz, kr, r, stay, again = now
            dh = dh + d_out
            dn = (kn * dh).astype(dtype)
            d_product = dn @ W_hh_T  # of r . h
            d_rz = jnp.concatenate([kr * d_product, kz * dh], axis=-1).astype(dtype)
            before = stay * dh + r * d_product + d_rz @ W_rz_T
            return kept(again, before), jnp.concatenate([d_rz, dn], axis=-1)

        steps = (d_outputs, k_n, k_z, k_r, reset, stay, again)
        d_carry, d = lax.scan(step, dh, steps, reverse=True)
        d_W_rz = weight_gradient(h_before.astype(dtype), d[..., :split])
        d_W_hh = weight_gradient(where(on, r * h_before, 0).astype(dtype), d[..., split:])
        d_kernel = jnp.concatenate([d_W_rz, d_W_hh], axis=1)
        return d_kernel, d.sum((0, 1)), None, d, d_carry, None, None

    k_r = where(on, m * (0.25 - 0.25 * t_r**2), 0) * k_n
    coefficients = jnp.concatenate([k_r, k_z, k_n * where(on, r, 0)], axis=-1)
    transposed = recurrent_kernel.T

    def step_after(dh, now):
        d_out, k, stay, again = now
        dh = dh + d_out
        d = (k * jnp.concatenate([dh, dh, dh], axis=-1)).astype(dtype)
        return kept(again, d @ transposed + stay * dh), dh

    steps_after = (d_outputs, coefficients, stay, again)
    d_carry, dh_all = lax.scan(step_after, dh, steps_after, reverse=True)
    d = coefficients * jnp.concatenate([dh_all, dh_all, dh_all], axis=-1)  # of the products with h
    d = d.astype(dtype)
    d_projected = jnp.concatenate([d[..., :split], (k_n * dh_all).astype(dtype)], axis=-1)
    d_kernel = weight_gradient(h_before.astype(dtype), d)
    d_bias_hn = d[..., split:].sum((0, 1))
    return d_kernel, d_projected.sum((0, 1)), d_bias_hn, d_projected, d_carry, None, None


gru_sequence.defvjp(_save, _gradient)

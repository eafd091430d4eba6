"""Activations that jax.nn has not: those of LeNet-5, and maxout."""

import jax
import jax.numpy as jnp

from nn_lib.checks import UserError


def scaled_tanh(x: jax.Array, *, scale: float = 1.0) -> jax.Array:
    """`tanh_s(x) = tanh(s x) = 2 sigma(2 s x) - 1`."""
    return jnp.tanh(scale * x)


def lenet_squash(x: jax.Array) -> jax.Array:
    """`A tanh(S x)`, A = 1.7159 and S = 2/3, so that f(1) is about 1 (LeCun et al. 1998)."""
    return 1.7159 * scaled_tanh(x, scale=2 / 3)


def maxout(x: jax.Array, *, pieces: int) -> jax.Array:
    """The largest of every `pieces` neighbouring channels, `[..., C] -> [..., C / pieces]`.

    Goodfellow et al. 2013, "Maxout networks".
    """
    if x.shape[-1] % pieces:
        raise UserError(f"maxout: {pieces} pieces do not divide {x.shape[-1]} channels")
    return jnp.max(x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces), axis=-1)


def at_least_float32(x: jax.Array) -> jax.Array:
    """Half precision as float32, for a loss; wider numbers as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

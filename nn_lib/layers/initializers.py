"""Initialisers that Flax has not, as named functions `(key, shape, dtype)`."""

import jax
import jax.numpy as jnp


def symmetric_uniform(key, shape, dtype=jnp.float32, *, bound: float = 1.0) -> jax.Array:
    """Uniform on [-bound, bound]; torch initialises every weight and bias of a recurrent layer so.

    There the bound is `1 / sqrt(H)`.
    """
    return jax.random.uniform(key, shape, dtype, -bound, bound)

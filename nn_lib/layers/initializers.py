"""Initialisers that Flax has not, as named functions `(key, shape, dtype)`."""

import jax
import jax.numpy as jnp


def symmetric_uniform(key, shape, dtype=jnp.float32, *, bound: float = 1.0) -> jax.Array:
    """Uniform on [-bound, bound]; torch initialises every weight and bias of a recurrent layer so.

    There the bound is `1 / sqrt(H)`.
    """
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def scaled_normal(key, shape, dtype=jnp.float32, *, stddev: float = 0.01) -> jax.Array:
    """Normal with mean 0; min-char-rnn draws every matrix with a standard deviation of 0.01."""
    return stddev * jax.random.normal(key, shape, dtype)


def scaled_identity(key, shape, dtype=jnp.float32, *, scale: float = 1.0) -> jax.Array:
    """`scale I`; 1 makes a rectifier network an IRNN, which begins by copying its state.

    Le, Jaitly & Hinton 2015, "A simple way to initialize recurrent networks of rectified linear
    units".
    """
    del key
    rows, columns = shape
    return scale * jnp.eye(rows, columns, dtype=dtype)


def scaled_orthogonal(key, shape, dtype=jnp.float32, *, scale: float = 1.0) -> jax.Array:
    """A random orthogonal matrix times `scale`: all singular values are `scale`."""
    return jax.nn.initializers.orthogonal(scale)(key, shape, dtype)

"""Pooling over windows of `[B, *spatial, C]`, each channel by itself."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Padding = str | Sequence[tuple[int, int]]


def max_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """The largest value of every window; padding never wins. `strides=None` means the window."""
    return nn.max_pool(x, tuple(window), tuple(strides or window), padding)


def avg_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    *,
    count_include_pad: bool = False,
) -> jax.Array:
    """The mean of every window, over its real pixels unless `count_include_pad`."""
    return nn.avg_pool(x, tuple(window), tuple(strides or window), padding, count_include_pad)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """`[B, *spatial, C]` to `[B, C]`, the mean over space."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


def global_max_pool(x: jax.Array) -> jax.Array:
    """`[B, *spatial, C]` to `[B, C]`, the maximum over space."""
    return jnp.max(x, axis=tuple(range(1, x.ndim - 1)))

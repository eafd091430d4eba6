"""Pooling over windows of `[B, *spatial, C]`, each channel by itself."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nn_lib.checks import UserError
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.fast_paths import is_fast
from nn_lib.layers.fast_pooling import LONGEST, maxima, sums
from nn_lib.layers.windows import Extent, Padding, explicit_padding, per_dimension


def max_pool(
    x: jax.Array,
    window: Extent,
    strides: Extent | None = None,
    padding: Padding = "VALID",
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """The largest value of every window; padding never wins.

    Args:
      window: its extent, a number or one per spatial dimension.
      strides: None means the window.
      padding: 'VALID', 'SAME', an int (symmetric, as torch) or (low, high) pairs.
      ceil_mode: a last window that the input fills only in part counts as well,
        `out = ceil((n + pads - k) / s) + 1`, unless it began in the padding (as torch).

    Raises:
      UserError: a window that meets nothing but padding, or is larger than the padded input.
    """
    window, strides, pads = _resolve("max_pool", x, window, strides, padding, ceil_mode)
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return _reduce(x, np.array(lowest, x.dtype), lax.max, window, strides, pads)


def sum_pool(
    x: jax.Array,
    window: Extent,
    strides: Extent | None = None,
    padding: Padding = "VALID",
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """The sum of every window; arguments as in `max_pool`."""
    window, strides, pads = _resolve("sum_pool", x, window, strides, padding, ceil_mode)
    return _sum(x, window, strides, pads).astype(x.dtype)


def avg_pool(
    x: jax.Array,
    window: Extent,
    strides: Extent | None = None,
    padding: Padding = "VALID",
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> jax.Array:
    """The mean of every window, over its real pixels unless `count_include_pad`.

    Other arguments as in `max_pool`. With `count_include_pad` the zeros of the padding count, but
    not what `ceil_mode` adds beyond it (as torch).
    """
    window, strides, pads = _resolve("avg_pool", x, window, strides, padding, ceil_mode)
    total = _sum(x, window, strides, pads)
    asked = explicit_padding("avg_pool", x.shape[1:-1], window, strides, padding)
    counts = np.ones((1,), np.int64)
    for n, k, s, (low, high), (_, asked_high) in zip(x.shape[1:-1], window, strides, pads, asked):
        starts = np.arange(0, n + low + high - k + 1, s) - low
        first, end = (-low, n + asked_high) if count_include_pad else (0, n)
        inside = np.minimum(starts + k, end) - np.maximum(starts, first)
        counts = counts[..., None] * inside
    return (total / counts[..., None].astype(total.dtype)).astype(x.dtype)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """`[B, *spatial, C]` to `[B, C]`, the mean over space."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


def global_max_pool(x: jax.Array) -> jax.Array:
    """`[B, *spatial, C]` to `[B, C]`, the maximum over space."""
    return jnp.max(x, axis=tuple(range(1, x.ndim - 1)))


def adaptive_avg_pool(x: jax.Array, size: Extent) -> jax.Array:
    """The mean over `size` windows in every dimension, which cover the input evenly (torch's rule).

    Window i of m over n pixels is `floor(i n / m) .. ceil((i + 1) n / m)`; they may overlap.
    """
    sizes = per_dimension("adaptive_avg_pool: size", size, x.ndim - 2)
    for axis, m in enumerate(sizes, start=1):
        n = x.shape[axis]
        if n == m:
            continue
        if n % m == 0:
            x = jnp.mean(x.reshape(*x.shape[:axis], m, n // m, *x.shape[axis + 1 :]), axis + 1)
            continue
        windows = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        means = [jnp.mean(lax.slice_in_dim(x, a, b, axis=axis), axis) for a, b in windows]
        x = jnp.stack(means, axis)
    return x


def max_pool_with_switches(
    x: jax.Array,
    window: Extent,
    strides: Extent | None = None,
    padding: Padding = "VALID",
    *,
    ceil_mode: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """`max_pool` and where each maximum came from, for `unpool`.

    Returns:
      The maxima `[B, *out, C]` and the switches, `int32[B, *out, C]`: the row-major index of the
      maximum (the first of equals) among the pixels of its channel, as torch's `return_indices`.

    Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks".
    """
    who = "max_pool_with_switches"
    window, strides, pads = _resolve(who, x, window, strides, padding, ceil_mode)
    spatial = x.shape[1:-1]
    edges = ((0, 0), *pads, (0, 0))
    padded = jnp.pad(x, edges, constant_values=-jnp.inf)
    pixels = np.pad(np.arange(math.prod(spatial)).reshape(spatial), pads)
    values, places = [], []
    for offset in np.ndindex(*window):
        cut = tuple(
            slice(o, o + n + low + high - k + 1, s)
            for o, n, (low, high), k, s in zip(offset, spatial, pads, window, strides)
        )
        values.append(padded[(slice(None), *cut)])
        places.append(pixels[cut])
    stacked = jnp.stack(values)
    best = jnp.argmax(stacked, axis=0)
    table = jnp.asarray(np.stack(places), jnp.int32)
    switches = jnp.take_along_axis(table[:, None, ..., None], best[None], axis=0)[0]
    return jnp.take_along_axis(stacked, best[None], axis=0)[0], switches


def unpool(y: jax.Array, switches: jax.Array, size: Sequence[int]) -> jax.Array:
    """Puts every value of `y [B, *pooled, C]` back where its switch says, zeros elsewhere.

    Where windows overlap and two switches agree, one of the two values is written (as torch).

    Args:
      size: the spatial shape before pooling.
    """
    if y.shape != switches.shape:
        raise UserError(
            f"unpool: values {list(y.shape)} and switches {list(switches.shape)} differ"
        )
    size = per_dimension("unpool: size", size, y.ndim - 2)
    if not isinstance(switches, jax.core.Tracer) and np.max(switches, initial=0) >= math.prod(size):
        raise UserError(
            f"unpool: the switches point outside of a size of {size}; was another shape pooled?"
        )
    batch, channels = y.shape[0], y.shape[-1]
    flat = jnp.zeros((batch, math.prod(size), channels), y.dtype)
    b, c = jnp.arange(batch)[:, None, None], jnp.arange(channels)
    places = switches.reshape(batch, -1, channels)
    return flat.at[b, places, c].set(y.reshape(batch, -1, channels)).reshape(batch, *size, channels)


def _sum(x, window, strides, pads):
    """In float32 or wider."""
    x = at_least_float32(x) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return _reduce(x, np.array(0, x.dtype), lax.add, window, strides, pads)


def _reduce(x, start, operation, window, strides, pads):
    if is_fast(x) and max(window) <= LONGEST:
        return {lax.max: maxima, lax.add: sums}[operation](x, window, strides, pads)
    return lax.reduce_window(
        x, start, operation, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )


def _resolve(who, x, window, strides, padding, ceil_mode):
    """Window, strides and (low, high) pads, one per dimension; ceil mode is more padding."""
    spatial = x.ndim - 2
    if spatial < 1:
        raise UserError(f"{who} expects inputs [B, *spatial, C], got {list(x.shape)}")
    window = per_dimension(f"{who}: window", window, spatial)
    strides = window if strides is None else per_dimension(f"{who}: strides", strides, spatial)
    pads = explicit_padding(who, x.shape[1:-1], window, strides, padding)
    resolved = []
    for n, k, s, (low, high) in zip(x.shape[1:-1], window, strides, pads):
        if low >= k or high >= k:
            raise UserError(
                f"{who}: a padding of {(low, high)} leaves windows of {k} without input"
            )
        if n + low + high < k:
            raise UserError(
                f"{who} with window {k} ran out of pixels: {n} and a padding of {low + high}"
            )
        if ceil_mode:
            out = -(-(n + low + high - k) // s) + 1
            out -= (out - 1) * s >= n + low  # it would begin in the padding at the end
            high = max(high, (out - 1) * s + k - n - low)
        resolved.append((low, high))
    return window, strides, tuple(resolved)

"""Reductions over windows, one spatial dimension after another, by shifted elementwise operations.

XLA's reduce_window and its gradient visit one window at a time on a CPU; here every offset in a
window is one long vector operation over all windows. Plain autodiff gives all derivatives.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

LONGEST = 16
"""Windows up to this extent in every dimension; every offset in a window is compiled by itself."""


def maximum(first: jax.Array, second: jax.Array) -> jax.Array:
    """The larger; of equals the first, which alone gets the gradient; NaN wins."""
    return jnp.where((second > first) | (second != second), second, first)


def reduce_windows(
    x: jax.Array,
    start: float,
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
) -> jax.Array:
    """`lax.reduce_window` over the spatial axes of `[B, *spatial, C]` for an associative `combine`.

    Along the last axis first, so that of several maxima the first in row-major order is found.
    """
    for axis in reversed(range(1, x.ndim - 1)):
        x = _along(x, axis, start, combine, window[axis - 1], strides[axis - 1], pads[axis - 1])
    return x


def _along(x, axis, start, combine, window, stride, pad):
    low, high = pad
    out = (x.shape[axis] + low + high - window) // stride + 1
    length = out + (window - 1) // stride  # of each phase
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (low, length * stride - x.shape[axis] - low, 0)
    x = lax.pad(x, jnp.asarray(start, x.dtype), edges)
    # Offset t of all windows is a slice with the stride as its step. With the pixels of one
    # remainder set apart it is a plain slice, and the gradients are concatenated, not scattered.
    phases = [x]
    if stride > 1:
        split = x.reshape(*x.shape[:axis], length, stride, *x.shape[axis + 1 :])
        phases = [lax.squeeze(p, [axis + 1]) for p in lax.split(split, [1] * stride, axis + 1)]
    taps = [
        lax.slice_in_dim(phases[t % stride], t // stride, t // stride + out, axis=axis)
        for t in range(window)
    ]
    return functools.reduce(combine, taps)

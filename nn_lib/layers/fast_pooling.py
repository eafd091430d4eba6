"""Maxima and sums over windows by elementwise operations, for CPUs.

XLA's reduce_window and its gradient visit one window at a time there. Here every tap of a window is
one operation over all windows, and the gradient one over all pixels, which adds up, for each pixel,
the windows that it is in. With a stride s, every s-th pixel (a phase) is a slice of `[.., n/s, s]`.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LONGEST = 16
"""Windows up to this extent in every dimension; every tap is compiled by itself."""
AT_ONCE = 16
"""Taps up to which all dimensions are reduced together, and not one after the other."""


class Windows(NamedTuple):
    """Where the windows lie: their extent, strides, padding before, and number, by dimension."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    low: tuple[int, ...]
    out: tuple[int, ...]


def maxima(x: jax.Array, window: tuple, strides: tuple, pads: tuple) -> jax.Array:
    """The largest of every window of `[B, *spatial, C]`.

    Of equals the first in row-major order has the gradient; NaN is larger than all.
    """
    if all(k <= s for k, s in zip(window, strides)):  # no pixel is in two windows
        return _by_steps(_maxima, -np.inf, math.prod(window) <= AT_ONCE, x, window, strides, pads)
    # The last dimension first, so that of several maxima the first in row-major order is found.
    for axis in reversed(range(1, x.ndim - 1)):
        x = _along(x, axis, window[axis - 1], strides[axis - 1], pads[axis - 1])
    return x


def sums(x: jax.Array, window: tuple, strides: tuple, pads: tuple) -> jax.Array:
    """The sum of every window of `[B, *spatial, C]`."""
    return _by_steps(_sums, 0.0, math.prod(window) <= AT_ONCE, x, window, strides, pads)


def _by_steps(reduce: Callable, neutral, at_once: bool, x, window, strides, pads) -> jax.Array:
    """All dimensions at once, or one after the other."""
    if not at_once and len(window) > 1:
        for axis in reversed(range(len(window))):
            own = [
                tuple(values[axis] if axis == i else rest for i in range(len(window)))
                for values, rest in ((window, 1), (strides, 1), (pads, (0, 0)))
            ]
            x = _by_steps(reduce, neutral, True, x, *own)
        return x
    edges, low, out = [], [], []
    for n, k, s, pad in zip(x.shape[1:-1], window, strides, pads):
        # With a stride the input is only filled up to whole phases: the taps pad what they take.
        edges.append((*pad, 0) if s == 1 else (0, -n % s, 0))
        low.append(0 if s == 1 else pad[0])
        out.append((n + sum(pad) - k) // s + 1)
    x = lax.pad(x, jnp.asarray(neutral, x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return reduce(x, Windows(window, strides, tuple(low), tuple(out)))


def _along(x: jax.Array, axis: int, window: int, stride: int, pad: tuple) -> jax.Array:
    """Maxima along one axis, whose derivatives are plain autodiff's."""
    low, high = pad
    out = (x.shape[axis] + low + high - window) // stride + 1
    length = out + (window - 1) // stride  # of each phase
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (low, length * stride - x.shape[axis] - low, 0)
    x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), edges)
    phases = [x]
    if stride > 1:  # split, so that the gradients are concatenated, not scattered
        split = x.reshape(*x.shape[:axis], length, stride, *x.shape[axis + 1 :])
        phases = [lax.squeeze(p, [axis + 1]) for p in lax.split(split, [1] * stride, axis + 1)]
    taps = [
        lax.slice_in_dim(phases[t % stride], t // stride, t // stride + out, axis=axis)
        for t in range(window)
    ]
    return functools.reduce(_larger, taps)


def _larger(first: jax.Array, second: jax.Array) -> jax.Array:
    """The larger; of equals the first, which alone gets the gradient; NaN wins."""
    return jnp.where((second > first) | (second != second), second, first)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sums(x: jax.Array, at: Windows) -> jax.Array:
    return functools.reduce(jnp.add, _taps(x, 0.0, at))


@_sums.defjvp
def _sums_jvp(at, primals, tangents):
    (x,), (dx,) = primals, tangents
    y = _sums(x, at)
    return y, _transposed(lambda d: _spread(d, None, x.shape, at), y, dx)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _maxima(x: jax.Array, at: Windows) -> jax.Array:
    return _largest(x, at)[0]


@_maxima.defjvp
def _maxima_jvp(at, primals, tangents):
    (x,), (dx,) = primals, tangents
    y, first = _largest(x, at)
    return y, _transposed(lambda d: _spread(d, first, x.shape, at), y, dx)


def _transposed(gradient: Callable, y: jax.Array, dx: jax.Array) -> jax.Array:
    """The tangent is written as the transpose of the gradient, whose form is what matters."""
    return jax.linear_transpose(gradient, y)(dx)[0]


def _largest(x: jax.Array, at: Windows) -> tuple[jax.Array, jax.Array]:
    """The maxima, and the number of the tap that each came from."""
    taps = _taps(x, -np.inf, at)
    best = next(taps)
    first = jnp.zeros(best.shape, jnp.int8)
    for number, tap in enumerate(taps, start=1):
        larger = (tap > best) | (tap != tap)
        best, first = jnp.where(larger, tap, best), jnp.where(larger, jnp.int8(number), first)
    return best, first


def _taps(x: jax.Array, neutral: float, at: Windows) -> Iterator[jax.Array]:
    """What every tap sees of all windows, `[B, *out, C]`, in row-major order of the taps."""
    phases = x.reshape(_by_phase(x.shape, at))
    outside = jnp.asarray(neutral, x.dtype)
    for offset in np.ndindex(*at.window):
        index: list = [slice(None)]
        edges = [(0, 0, 0)]
        for n, t, s, low, out in zip(x.shape[1:-1], offset, at.strides, at.low, at.out):
            moved, phase = divmod(t - low, s)
            index += [slice(None), phase]
            edges.append((-moved, moved + out - n // s, 0))
        yield lax.pad(phases[tuple(index)], outside, (*edges, (0, 0, 0)))


def _spread(d: jax.Array, first: jax.Array | None, shape: tuple, at: Windows) -> jax.Array:
    """For each pixel the sum of `d [B, *out, C]` over the windows it is in.

    With `first` only over those windows that it is the maximum of.
    """
    count = [n // s for n, s in zip(shape[1:-1], at.strides)]
    # Pixel s j + r is tap t = r + low - s m of window j + m.
    moves = [
        range(-((k - 1 - low) // s), (s - 1 + low) // s + 1)
        for k, s, low in zip(at.window, at.strides, at.low)
    ]
    edges = [
        (max(0, -own[0]), max(0, own[-1] + n - out), 0) for own, n, out in zip(moves, count, at.out)
    ]
    edges = [(0, 0, 0), *edges, (0, 0, 0)]
    d = lax.pad(d, jnp.zeros((), d.dtype), edges)
    if first is not None:
        first = lax.pad(first, jnp.int8(-1), edges)
    whole = _by_phase(shape, at)
    grid = [1, *(size for s in at.strides for size in (1, s)), 1]
    total = jnp.zeros((), d.dtype)
    for moved in itertools.product(*moves):
        taken: list = [slice(None)]
        number, inside = jnp.zeros((), jnp.int32), None
        for axis, (m, k, s, low) in enumerate(zip(moved, at.window, at.strides, at.low)):
            start = edges[axis + 1][0] + m
            taken.append(slice(start, start + count[axis]))
            tap = lax.broadcasted_iota(jnp.int32, grid, 2 * axis + 2) + (low - s * m)
            number = number * k + tap
            for cut, bound in ((low - s * m < 0, tap >= 0), (s - 1 + low - s * m >= k, tap < k)):
                if cut:
                    inside = bound if inside is None else inside & bound
        here = _beside_phases(d[tuple(taken)], whole)
        if first is not None:
            chosen = _beside_phases(first[tuple(taken)], whole) == number
            inside = chosen if inside is None else chosen & inside
        total = total + (here if inside is None else jnp.where(inside, here, 0))
    return total.reshape(shape)


def _by_phase(shape: tuple, at: Windows) -> list[int]:
    """`[B, n/s, s, ..., C]`."""
    phases = [size for n, s in zip(shape[1:-1], at.strides) for size in (n // s, s)]
    return [shape[0], *phases, shape[-1]]


def _beside_phases(array: jax.Array, whole: list[int]) -> jax.Array:
    """`[B, n/s, ..., C]`, the same for all phases."""
    inner = [size for n in array.shape[1:-1] for size in (n, 1)]
    return jnp.broadcast_to(array.reshape(array.shape[0], *inner, array.shape[-1]), whole)

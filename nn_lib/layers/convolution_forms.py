"""Convolution and its two gradients in other words: products of matrices and sums of shifts.

`forward(x, k, g) -> y`, `input_gradient(d, k, g) -> dx` and `kernel_gradient(x, d, g) -> dk` of
`x [B, *size, C]`, `k [*window, C/groups, O]` and `d`, of y's shape; all equal but for rounding.
`fast_convolution` chooses among them.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What is static of a convolution beside its shapes; hashable, since jit's keys hold it."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def spans(self) -> tuple[int, ...]:
        """The pixels from the first to the last tap of a window."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.window, self.dilation))

    @property
    def out(self) -> tuple[int, ...]:
        """The spatial size of y."""
        sizes = zip(self.size, self.spans, self.strides, self.pads)
        return tuple((n + low + high - span) // s + 1 for n, span, s, (low, high) in sizes)

    def flipped(self) -> "Geometry":
        """For strides of 1: the convolution of d with the flipped kernel that gives dx."""
        pads = []
        for n, out, span, (low, _) in zip(self.size, self.out, self.spans, self.pads):
            before = span - 1 - low
            pads.append((before, n - out + span - 1 - before))
        return dataclasses.replace(self, size=self.out, pads=tuple(pads))


# XLA's operator and its transposes: what every other form equals.


def xla(x: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    letters = "DHW"[3 - len(g.window) :]
    return lax.conv_general_dilated(
        x,
        k,
        window_strides=g.strides,
        padding=g.pads,
        rhs_dilation=g.dilation,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=g.groups,
    )


def xla_dx(d: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    x = jax.ShapeDtypeStruct((d.shape[0], *g.size, k.shape[-2] * g.groups), d.dtype)
    return jax.linear_transpose(lambda x: xla(x, k, g), x)(d)[0]


def xla_dk(x: jax.Array, d: jax.Array, g: Geometry) -> jax.Array:
    k = jax.ShapeDtypeStruct((*g.window, x.shape[-1] // g.groups, d.shape[-1]), d.dtype)
    return jax.linear_transpose(lambda k: xla(x, k, g), k)(d)[0]


def xla_dx_flipped(d: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    """For strides of 1: XLA's operator itself, over d."""
    return xla(d, _flipped(k), g.flipped())


def xla_dk_in_parts(x: jax.Array, d: jax.Array, g: Geometry) -> jax.Array:
    """XLA's operator is quicker on few images at a time, with some thousand pixels in all."""
    if not isinstance(x.shape[0], int):  # a symbol, in an export
        return xla_dk(x, d, g)
    most = min(8, math.prod(d.shape[:-1]) // 1024)
    parts = math.gcd(x.shape[0], 1 << max(0, most.bit_length() - 1))
    pairs = zip(jnp.split(x, parts), jnp.split(d, parts))
    return _sum(xla_dk(some_x, some_d, g) for some_x, some_d in pairs)


# A window of one pixel is one product.


def product(x: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    return _times(_tap(x, (0,) * len(g.window), g), k.reshape(k.shape[-2:]))


def product_dx(d: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    dx = lax.dot_general(d, k.reshape(k.shape[-2:]), (((d.ndim - 1,), (1,)), ((), ())))
    return _tap_dx(dx, (0,) * len(g.window), g)


def product_dk(x: jax.Array, d: jax.Array, g: Geometry) -> jax.Array:
    dk = _sum_of_products(_tap(x, (0,) * len(g.window), g), d)
    return dk.reshape(*g.window, *dk.shape)


# What every window sees side by side, `[B, *out, taps C]`: one product with all taps (im2col).


def gathered(x: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    return _times(_windows(x, g), lax.collapse(k, 0, k.ndim - 1))


def gathered_dx(d: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    """One product makes what every tap sends back; each is added where its pixels lie."""
    taps = k.reshape(-1, *k.shape[-2:])
    wide = _times(d, jnp.moveaxis(taps, -1, 0).reshape(d.shape[-1], -1))
    parts = jnp.split(wide, len(taps), -1)
    return _sum(_tap_dx(part, offset, g) for part, offset in zip(parts, np.ndindex(*g.window)))


def gathered_dk(x: jax.Array, d: jax.Array, g: Geometry) -> jax.Array:
    dk = _sum_of_products(_windows(x, g), d)
    return dk.reshape(*g.window, x.shape[-1], d.shape[-1])


# A channel with its own kernel (depthwise; several outputs per input lie beside one another).


def shifted(x: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    x = jnp.repeat(x, k.shape[-1] // g.groups, -1)
    return _sum(_tap(x, offset, g) * k[offset][0] for offset in np.ndindex(*g.window))


def shifted_dx(d: jax.Array, k: jax.Array, g: Geometry) -> jax.Array:
    dx = _sum(_tap_dx(d * k[offset][0], offset, g) for offset in np.ndindex(*g.window))
    return dx.reshape(*dx.shape[:-1], g.groups, k.shape[-1] // g.groups).sum(-1)


def shifted_dk(x: jax.Array, d: jax.Array, g: Geometry) -> jax.Array:
    x = jnp.repeat(x, d.shape[-1] // g.groups, -1)
    pixels = tuple(range(d.ndim - 1))
    sums = [(_tap(x, offset, g) * d).sum(pixels) for offset in np.ndindex(*g.window)]
    return jnp.stack(sums).reshape(*g.window, 1, d.shape[-1])


def _tap(x: jax.Array, offset: tuple[int, ...], g: Geometry) -> jax.Array:
    """What the tap at `offset` of every window sees, `[B, *out, C]`."""
    edges = [(low, high, 0) for low, high in g.pads]
    if any(low or high for low, high in g.pads):
        x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    starts = [t * d for t, d in zip(offset, g.dilation)]
    limits = [start + (n - 1) * s + 1 for start, n, s in zip(starts, g.out, g.strides)]
    return lax.slice(x, (0, *starts, 0), (x.shape[0], *limits, x.shape[-1]), (1, *g.strides, 1))


def _tap_dx(d: jax.Array, offset: tuple[int, ...], g: Geometry) -> jax.Array:
    """The transpose of `_tap`: `[B, *out, C]` to `[B, *size, C]`."""
    edges = []
    for n, out, s, t, dilation, (low, _) in zip(
        g.size, g.out, g.strides, offset, g.dilation, g.pads
    ):
        start = t * dilation
        edges.append((start - low, n + low - (start + (out - 1) * s + 1), s - 1))
    if not any(map(any, edges)):
        return d
    return lax.pad(d, jnp.zeros((), d.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


def _windows(x: jax.Array, g: Geometry) -> jax.Array:
    return jnp.concatenate([_tap(x, offset, g) for offset in np.ndindex(*g.window)], -1)


def _times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())))


def _sum_of_products(x: jax.Array, d: jax.Array) -> jax.Array:
    """`sum over all pixels of x' d`, `[C, O]`.

    Of two matrices: with more axes XLA transposes an operand, together with all that made it.
    """
    x, d = (lax.collapse(array, 0, array.ndim - 1) for array in (x, d))
    return lax.dot_general(x, d, (((0,), (0,)), ((), ())))


def _flipped(k: jax.Array) -> jax.Array:
    return jnp.flip(k, range(k.ndim - 2)).swapaxes(-1, -2)


def _sum(parts: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts)

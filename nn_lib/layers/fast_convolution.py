"""Convolutions on a CPU in the forms that are quickest there, for derivatives of every order.

A convolution and the gradients of its input and of its kernel are each linear in both arguments,

    y = conv(x, k)    dx = input_gradient(d, k)    dk = kernel_gradient(x, d)

and the derivatives of each are made of the other two. They are three primitives, so that forward
and reverse mode of any order stay among them. Compiled for a CPU each takes the form that `choose`
names for its shapes; compiled for anything else it is XLA's operator.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from nn_lib.layers import convolution_forms as forms
from nn_lib.layers.convolution_forms import Geometry


class Forms(NamedTuple):
    """How the three are computed."""

    forward: Callable
    input_gradient: Callable
    kernel_gradient: Callable


XLA = Forms(forms.xla, forms.xla_dx, forms.xla_dk)


def choose(g: Geometry, inputs: int, outputs: int) -> Forms:
    """The forms for a convolution of `inputs` to `outputs` channels: the table of what is quickest.

    Measured on 2 cores with AVX-512, layer by layer and in whole networks; what was tried is in
    docs/measurements.md, how it compares in `experiments.benchmarks.convnets`.
    """
    taps = math.prod(g.window)
    if 1 < g.groups == inputs and taps <= 49:  # depthwise
        return Forms(forms.shifted, forms.shifted_dx, forms.shifted_dk)
    if g.groups > 1 or max(g.dilation) > 1:
        return XLA
    if taps == 1:
        return Forms(forms.product, forms.product_dx, forms.product_dk)
    if max(g.strides) > 1:
        if min(inputs, outputs) >= 64 and taps <= 9:
            return Forms(forms.gathered, forms.gathered_dx, forms.gathered_dk)
        return XLA._replace(kernel_gradient=forms.xla_dk_in_parts)  # the stem of a network
    if min(inputs, outputs) >= 512 and taps <= 9:
        return Forms(forms.gathered, forms.gathered_dx, forms.gathered_dk)
    if min(inputs, outputs) < 32:
        return Forms(forms.xla, forms.xla_dx_flipped, forms.xla_dk)
    return Forms(forms.xla, forms.xla_dx_flipped, forms.xla_dk_in_parts)


def convolution(x: jax.Array, k: jax.Array, geometry: Geometry) -> jax.Array:
    """`forms.xla(x, k, geometry)`, quicker on a CPU."""
    return convolution_p.bind(x, k, geometry=geometry)


convolution_p = Primitive("convolution")
input_gradient_p = Primitive("convolution_input_gradient")
kernel_gradient_p = Primitive("convolution_kernel_gradient")

ad.defbilinear(
    convolution_p,
    lambda d, x, k, geometry: input_gradient_p.bind(d, k, geometry=geometry),
    lambda d, x, k, geometry: kernel_gradient_p.bind(x, d, geometry=geometry),
)
ad.defbilinear(
    input_gradient_p,
    lambda x, d, k, geometry: convolution_p.bind(x, k, geometry=geometry),
    lambda x, d, k, geometry: kernel_gradient_p.bind(x, d, geometry=geometry),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda k, x, d, geometry: input_gradient_p.bind(d, k, geometry=geometry),
    lambda k, x, d, geometry: convolution_p.bind(x, k, geometry=geometry),
)


def _register(primitive: Primitive, which: int, shape: Callable, sizes: Callable) -> None:
    """How a primitive is typed, run, compiled and mapped.

    Args:
      which: its place in `Forms`.
      shape: of its result, from its operands and geometry.
      sizes: its numbers of input and output channels, likewise.
    """

    def chosen(a, b, *, geometry):
        return choose(geometry, *sizes(a, b, geometry))[which](a, b, geometry)

    def plain(a, b, *, geometry):
        return XLA[which](a, b, geometry)

    def mapped(operands, axes, *, geometry):
        (a, b), (a_axis, b_axis) = operands, axes
        if b_axis is None and which < 2:  # a batch of batches is one batch
            a = jnp.moveaxis(a, a_axis, 0)
            result = primitive.bind(a.reshape(-1, *a.shape[2:]), b, geometry=geometry)
            return result.reshape(*a.shape[:2], *result.shape[1:]), 0
        return jax.vmap(lambda a, b: plain(a, b, geometry=geometry), axes)(a, b), 0

    primitive.def_impl(jax.jit(chosen, static_argnames="geometry"))
    primitive.def_abstract_eval(
        lambda a, b, *, geometry: ShapedArray(shape(a, b, geometry), a.dtype)
    )
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(chosen, multiple_results=False), "cpu")
    batching.primitive_batchers[primitive] = mapped


_register(
    convolution_p,
    0,
    lambda x, k, g: (x.shape[0], *g.out, k.shape[-1]),
    lambda x, k, g: (x.shape[-1], k.shape[-1]),
)
_register(
    input_gradient_p,
    1,
    lambda d, k, g: (d.shape[0], *g.size, k.shape[-2] * g.groups),
    lambda d, k, g: (k.shape[-2] * g.groups, k.shape[-1]),
)
_register(
    kernel_gradient_p,
    2,
    lambda x, d, g: (*g.window, x.shape[-1] // g.groups, d.shape[-1]),
    lambda x, d, g: (x.shape[-1], d.shape[-1]),
)

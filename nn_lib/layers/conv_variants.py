"""Convolutions with another connection pattern: depthwise, separable, locally connected."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.checks import UserError
from nn_lib.layers.conv import Conv, check_inputs
from nn_lib.layers.precision import add_bias
from nn_lib.layers.windows import Extent, Padding, explicit_padding, per_dimension


class DepthwiseConv(nn.Module):
    """Every channel convolved by itself into `multiplier` channels: `Conv` with a group a channel.

    `[B, *spatial, C] -> [B, *out, multiplier C]`.
    """

    window: Sequence[int]
    multiplier: int = 1
    strides: Extent = 1
    padding: Padding = "VALID"
    dilation: Extent = 1
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        return Conv(
            channels * self.multiplier,
            self.window,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=channels,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="conv",
        )(x)


class SeparableConv(nn.Module):
    """A depthwise convolution, then a 1x1 convolution that mixes the channels.

    `K^2 C + C O` weights instead of `K^2 C O` (Sifre 2014; Chollet 2017, "Xception").
    """

    features: int
    window: Sequence[int]
    multiplier: int = 1
    strides: Extent = 1
    padding: Padding = "VALID"
    dilation: Extent = 1
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = DepthwiseConv(
            self.window,
            self.multiplier,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            use_bias=False,
            dtype=self.dtype,
            name="depthwise",
        )(x)
        ones = (1,) * len(self.window)
        return Conv(
            self.features, ones, use_bias=self.use_bias, dtype=self.dtype, name="pointwise"
        )(x)


class LocallyConnected(nn.Module):
    """A convolution whose weights are not shared: every output position has a kernel of its own.

    `y[b, i, o] = sum_{k, c} x[b, s i + k - p, c] kernel[i, c k, o] + bias[i, o]`. With 10x10
    windows a million hidden units have 10^8 weights, where sharing has 100 for each map and full
    connection to a 1000x1000 image 10^12. The size of the image is fixed by `init`.
    `kernel_init=None` is LeCun's normal at every position.
    """

    features: int
    window: Sequence[int]
    strides: Extent = 1
    padding: Padding = "VALID"
    use_bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_inputs("LocallyConnected", self.window, x)
        window = tuple(self.window)
        spatial = len(window)
        strides = per_dimension("LocallyConnected: strides", self.strides, spatial)
        pads = explicit_padding("LocallyConnected", x.shape[1:-1], window, strides, self.padding)
        out = tuple(
            (n + low + high - k) // s + 1
            for n, k, s, (low, high) in zip(x.shape[1:-1], window, strides, pads)
        )
        shape = (*out, math.prod(window) * x.shape[-1], self.features)
        if min(out) < 1:
            raise UserError(
                f"LocallyConnected ran out of pixels: a window of {window} over inputs "
                f"{list(x.shape)}; use larger inputs or padding='SAME'"
            )
        if self.has_variable("params", "kernel"):
            held: tuple[int, ...] = self.get_variable("params", "kernel").shape
            if held != shape:
                raise UserError(
                    f"LocallyConnected was initialised for a kernel {list(held)}, and inputs "
                    f"{list(x.shape)} take {list(shape)}; it works for one size of image only"
                )
        places = tuple(range(spatial))  # each has weights of its own, and shares no fan-in
        init = self.kernel_init or nn.initializers.lecun_normal(batch_axis=places)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (*out, self.features), self.param_dtype)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        letters = "DHW"[3 - spatial :]
        with jax.named_scope("macs=0"):  # for summaries: these are copies
            x = lax.conv_general_dilated_patches(
                x,
                filter_shape=window,
                window_strides=strides,
                padding=pads,
                dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            )
        y = jnp.einsum("n...k,...ko->n...o", x, kernel)
        return y if bias is None else add_bias(y, bias)

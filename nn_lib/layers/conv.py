"""Convolution and its adjoint in one to three spatial dimensions, channels last."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError, check_choice
from nn_lib.layers import convolution_forms, fast_convolution
from nn_lib.layers.convolution_forms import Geometry
from nn_lib.layers.fast_paths import is_fast, is_in_automatic_mesh
from nn_lib.layers.precision import add_bias
from nn_lib.layers.windows import Extent, Padding, explicit_padding, per_dimension

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "circular": "wrap"}


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Extent = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    dilation: Extent = 1,
    groups: int = 1,
    flip: bool = False,
) -> jax.Array:
    """Cross-correlates `x [B, *spatial, C_in]` with `kernel [*window, C_in/groups, C_out]`.

    In one dimension `y[b, i, o] = sum_{k, c} x[b, s i + d k - p, c] kernel[k, c, o]`, with stride
    s, dilation d, left padding p; `out = floor((n + pads - d (K-1) - 1) / s) + 1`.

    Args:
      padding: 'VALID'; 'SAME' (XLA's: the odd pixel goes to the end, so that with a stride it is
        not torch's); 'SAME_SYMMETRIC' (`d (K-1) / 2` on both sides, as torch's networks); an int
        (symmetric, as torch); or a (low, high) pair for every spatial dimension.
      padding_mode: what is outside: 'zeros', 'reflect' (the border pixel not repeated) or
        'circular'.
      groups: channels `C_in/groups` see only their own `C_out/groups`.
      flip: true convolution, which reverses the window.

    Raises:
      UserError: ranks, channels, groups or paddings that do not fit, or too few pixels.
    """
    spatial = kernel.ndim - 2
    if not 1 <= spatial <= 3:
        raise UserError(
            "convolve expects a kernel [*window, C_in/groups, C_out] with 1 to 3 spatial axes, got "
            f"shape {kernel.shape}"
        )
    if x.ndim != kernel.ndim:
        raise UserError(
            f"convolve expects inputs [B, {spatial} spatial axes, C] for a kernel of shape "
            f"{kernel.shape}, got {x.shape}; is the batch or the channel axis missing?"
        )
    if x.shape[-1] != kernel.shape[-2] * groups:
        raise UserError(
            f"convolve expects {kernel.shape[-2] * groups} input channels in the last axis, got "
            f"inputs of shape {x.shape}; are the channels first?"
        )
    if kernel.shape[-1] % groups:
        raise UserError(f"convolve cannot divide {kernel.shape[-1]} outputs into {groups} groups")
    check_choice("convolve: padding_mode", padding_mode, PADDING_MODES)
    strides = per_dimension("convolve: strides", strides, spatial)
    dilation = per_dimension("convolve: dilation", dilation, spatial)
    size, window = x.shape[1:-1], kernel.shape[:-2]
    pads = explicit_padding("convolve", size, window, strides, padding, dilation)
    for n, k, d, (low, high) in zip(size, window, dilation, pads):
        if n + low + high < d * (k - 1) + 1:
            raise UserError(
                f"convolve ran out of pixels: a window of {window} with dilation {dilation} over "
                f"{size} and a padding of {pads}; use larger inputs, smaller strides before, or "
                "padding='SAME'"
            )
    if padding_mode != "zeros":
        if padding_mode == "reflect" and any(max(pad) >= n for n, pad in zip(size, pads)):
            raise UserError(f"convolve cannot reflect {pads} pixels of an input of only {size}")
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=PADDING_MODES[padding_mode])
        pads = ((0, 0),) * spatial
    if flip:
        kernel = jnp.flip(kernel, range(spatial))
    geometry = Geometry(x.shape[1:-1], window, strides, pads, dilation, groups)
    if is_fast(x) and x.dtype == kernel.dtype and x.dtype.itemsize >= 4 and is_in_automatic_mesh():
        return fast_convolution.convolution(x, kernel, geometry)
    return convolution_forms.xla(x, kernel, geometry)


def convolve_transposed(
    y: jax.Array,
    kernel: jax.Array,
    *,
    strides: Extent = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    dilation: Extent = 1,
    groups: int = 1,
    flip: bool = False,
    output_padding: Extent | None = None,
) -> jax.Array:
    """The adjoint of `convolve` with the same kernel and arguments, `<conv(x), y> = <x, result>`.

    `y [B, *out, C_out] -> [B, *spatial, C_in]` for `kernel [*window, C_in/groups, C_out]`. Of the
    sizes that `convolve` maps to `out`, the result has `s out` under 'SAME' and otherwise the
    smallest, `(out - 1) s - pads + d (K - 1) + 1`, plus `output_padding < s` (not under 'SAME').

    Raises:
      UserError: ranks, channels or sizes that no convolution with these arguments has.
    """
    spatial = kernel.ndim - 2
    if y.ndim != kernel.ndim or y.shape[-1] != kernel.shape[-1]:
        raise UserError(
            f"convolve_transposed expects inputs [B, {spatial} spatial axes, {kernel.shape[-1]}] "
            f"for a kernel of shape {kernel.shape}, got {y.shape}"
        )
    steps = per_dimension("convolve_transposed: strides", strides, spatial)
    dilations = per_dimension("convolve_transposed: dilation", dilation, spatial)
    same = isinstance(padding, str) and padding.upper() == "SAME"
    if same and output_padding:
        raise UserError("convolve_transposed: 'SAME' fixes the size, output_padding has no place")
    extra = output_padding or (0,) * spatial
    extra = (extra,) * spatial if isinstance(extra, int) else tuple(extra)
    if len(extra) != spatial or not all(0 <= e < s for e, s in zip(extra, steps)):
        raise UserError(
            f"convolve_transposed: output_padding is at least 0 and less than the stride {steps}, "
            f"got {output_padding}"
        )
    size = [n * s for n, s in zip(y.shape[1:-1], steps)]
    if not same:
        pads = explicit_padding(
            "convolve_transposed", size, kernel.shape[:-2], steps, padding, dilations
        )
        size = [
            (n - 1) * s - sum(pad) + d * (k - 1) + 1 + e
            for n, s, d, k, pad, e in zip(
                y.shape[1:-1], steps, dilations, kernel.shape, pads, extra
            )
        ]
        if min(size) < 1:
            raise UserError(
                f"convolve_transposed: a padding of {pads} leaves nothing of {y.shape[1:-1]} pixels"
            )
    shape = (y.shape[0], *size, kernel.shape[-2] * groups)
    transpose = jax.linear_transpose(
        lambda x: convolve(
            x,
            kernel,
            strides=strides,
            padding=padding,
            padding_mode=padding_mode,
            dilation=dilation,
            groups=groups,
            flip=flip,
        ),
        jax.ShapeDtypeStruct(shape, y.dtype),
    )
    return transpose(y)[0]


class Conv(nn.Module):
    """`convolve` with a learned kernel and, unless `use_bias=False`, a bias per output channel.

    Attributes:
      features: the output channels.
      window: the kernel's extent in every spatial dimension; its length fixes their number.
    """

    features: int
    window: Sequence[int]
    strides: Extent = 1
    padding: Padding = "VALID"
    padding_mode: str = "zeros"
    dilation: Extent = 1
    groups: int = 1
    flip: bool = False
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_inputs("Conv", self.window, x)
        check_groups("Conv", x.shape[-1], self.features, self.groups)
        shape = (*self.window, x.shape[-1] // self.groups, self.features)
        check_channels(self, "Conv", -2, shape[-2], x)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = convolve(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            padding_mode=self.padding_mode,
            dilation=self.dilation,
            groups=self.groups,
            flip=self.flip,
        )
        return y if bias is None else add_bias(y, bias)


class ConvTranspose(nn.Module):
    """The adjoint of `Conv` with the same arguments, and a bias: the layer that enlarges maps.

    Its kernel `[*window, features/groups, C]` is that of the `Conv` that maps `features` channels
    to the C of the inputs, so that tied weights are the same array. Sizes as in
    `convolve_transposed`; with an int as padding they are torch's, `(n - 1) s - 2 p + d (k - 1) + 1
    + output_padding`. `kernel_init=None` is LeCun's normal.

    Zeiler, Krishnan, Taylor & Fergus 2010, "Deconvolutional networks".
    """

    features: int
    window: Sequence[int]
    strides: Extent = 1
    padding: Padding = "VALID"
    padding_mode: str = "zeros"
    dilation: Extent = 1
    groups: int = 1
    flip: bool = False
    output_padding: Extent | None = None
    use_bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: jax.Array) -> jax.Array:
        check_inputs("ConvTranspose", self.window, y)
        check_groups("ConvTranspose", y.shape[-1], self.features, self.groups)
        shape = (*self.window, self.features // self.groups, y.shape[-1])
        check_channels(self, "ConvTranspose", -1, shape[-1], y)
        # The fan-in of an output is that of its own group.
        init = self.kernel_init or nn.initializers.variance_scaling(
            self.groups, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2
        )
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        y, kernel = nn.dtypes.promote_dtype(y, kernel, dtype=self.dtype)
        x = convolve_transposed(
            y,
            kernel,
            strides=self.strides,
            padding=self.padding,
            padding_mode=self.padding_mode,
            dilation=self.dilation,
            groups=self.groups,
            flip=self.flip,
            output_padding=self.output_padding,
        )
        return x if bias is None else add_bias(x, bias)


def check_inputs(who: str, window: Sequence[int], x: jax.Array) -> None:
    """Raises UserError unless x is `[B, *spatial, C]`, floating, of the window's dimensions."""
    if not isinstance(window, Sequence) or not all(isinstance(k, int) and k > 0 for k in window):
        raise UserError(
            f"{who} expects a window with a positive number for each spatial dimension, as in "
            f"(3, 3), got {window!r}"
        )
    if x.ndim != len(window) + 2:
        raise UserError(
            f"{who} with window {tuple(window)} expects inputs of rank {len(window) + 2}, "
            f"[B, *spatial, C], got shape {x.shape}"
        )
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise UserError(
            f"{who} expects floating inputs, got {x.dtype}; scale the images first, as in "
            "images / 255"
        )


def check_groups(who: str, inputs: int, features: int, groups: int) -> None:
    """Raises UserError unless the groups divide the channels on both sides."""
    if features < 1 or groups < 1:
        raise UserError(f"{who} expects features and groups above 0, got {features} and {groups}")
    if inputs % groups or features % groups:
        raise UserError(
            f"{who} cannot divide {inputs} input and {features} output channels into {groups} "
            "groups"
        )


def check_channels(layer: nn.Module, who: str, axis: int, expected: int, x: jax.Array) -> None:
    """Raises UserError where the kernel that a layer has is of another number of channels."""
    if layer.has_variable("params", "kernel"):
        held: int = layer.get_variable("params", "kernel").shape[axis]
        if held != expected:
            raise UserError(
                f"{who} was initialised for {held} channels (of a group) in the last axis, got "
                f"{expected} of inputs {list(x.shape)}; are the channels first?"
            )

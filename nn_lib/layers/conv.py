"""Convolution in one to three spatial dimensions, channels last."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.checks import UserError

Padding = str | int | Sequence[tuple[int, int]]


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    flip: bool = False,
) -> jax.Array:
    """Cross-correlates `x [B, *spatial, C_in]` with `kernel [*window, C_in/groups, C_out]`.

    In one dimension `y[b, i, o] = sum_{k, c} x[b, s i + d k - p, c] kernel[k, c, o]`, with stride
    s, dilation d, left padding p and zeros outside;
    `out = floor((n + pads - d (K-1) - 1) / s) + 1`.

    Args:
      padding: 'VALID', 'SAME' (XLA's: the odd pixel goes to the end), an int (symmetric, as
        torch), or a (low, high) pair for every spatial dimension.
      flip: true convolution, which reverses the window.

    Raises:
      UserError: ranks or channels that do not fit.
    """
    spatial = kernel.ndim - 2
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
    if flip:
        kernel = jnp.flip(kernel, range(spatial))
    letters = "DHW"[3 - spatial :]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=_per_dimension(strides, spatial),
        padding=[(padding, padding)] * spatial if isinstance(padding, int) else padding,
        rhs_dilation=_per_dimension(dilation, spatial),
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
    )


class Conv(nn.Module):
    """`convolve` with a learned kernel and, unless `use_bias=False`, a bias per output channel.

    Attributes:
      features: the output channels.
      window: the kernel's extent in every spatial dimension; its length fixes their number.
    """

    features: int
    window: Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "VALID"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.ndim != len(self.window) + 2:
            raise UserError(
                f"Conv with window {tuple(self.window)} expects inputs of rank "
                f"{len(self.window) + 2}, [B, *spatial, C], got shape {x.shape}"
            )
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise UserError(
                f"Conv cannot divide {x.shape[-1]} input and {self.features} output channels into "
                f"{self.groups} groups"
            )
        shape = (*self.window, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolve(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if bias is None else y + bias


def _per_dimension(value: int | Sequence[int], spatial: int) -> tuple[int, ...]:
    return (value,) * spatial if isinstance(value, int) else tuple(value)

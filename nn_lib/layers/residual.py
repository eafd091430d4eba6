"""Residual blocks, `y = F(x) + x`, which find it easy to be the identity.

He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition" (v1) and "Identity
mappings in deep residual networks" (v2, pre-activation).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError, check_choice
from nn_lib.layers.batch_norm import BatchNorm
from nn_lib.layers.blocks import he_normal
from nn_lib.layers.conv import Conv

SHORTCUTS = ("A", "B", "C")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, beside a shortcut.

    `[B, H, W, C] -> [B, H/strides, W/strides, features]`. Each convolution is followed by batch
    norm, all but the last by the activation, which is last applied to the sum. With
    `pre_activation` norm and activation come before each convolution and the sum stays as it is.

    Attributes:
      features: output channels.
      inner: channels of the 3x3 convolutions; None means `features`, or a quarter in a bottleneck.
      stride_in_3x3: of a bottleneck: v1.5, as torchvision; False strides in the first 1x1 (v1).
      shortcut: where the shape changes, 'A' subsamples and pads channels with zeros (no
        parameters), 'B' projects by a 1x1 convolution; 'C' projects in every block.
      zero_init: the last norm's scale begins at 0, so that the block begins as its shortcut
        (not for pre-activation, whose norms come before the convolutions).
    """

    features: int
    strides: int = 1
    bottleneck: bool = False
    inner: int | None = None
    stride_in_3x3: bool = True
    shortcut: str = "B"
    zero_init: bool = False
    pre_activation: bool = False
    activation: Callable = nn.relu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        check_choice("ResidualBlock: shortcut", self.shortcut, SHORTCUTS)
        if self.shortcut == "A" and self.features < x.shape[-1]:
            raise UserError(
                f"ResidualBlock: shortcut 'A' pads channels, and cannot make {self.features} of "
                f"{x.shape[-1]}; use 'B'"
            )
        convolutions = self._convolutions()
        last = len(convolutions)
        changes = self.strides > 1 or x.shape[-1] != self.features
        projects = self.shortcut == "C" or (self.shortcut == "B" and changes)
        y = x
        if self.pre_activation:
            y = self.activation(self._norm(1, train)(x))
            x = y if projects else x
        for i, (features, window, strides) in enumerate(convolutions, start=1):
            y = self._conv(features, window, strides, f"conv{i}")(y)
            if not self.pre_activation:
                y = self._norm(i, train, zero=self.zero_init and i == last)(y)
            elif i < last:
                y = self._norm(i + 1, train)(y)
            y = self.activation(y) if i < last else y
        if projects:
            x = self._conv(self.features, 1, self.strides, "shortcut_conv")(x)
            if not self.pre_activation:
                x = self._norm("shortcut", train)(x)
        elif changes:
            x = x[:, :: self.strides, :: self.strides]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))
        return y + x if self.pre_activation else self.activation(y + x)

    def _convolutions(self) -> list[tuple[int, int, int]]:
        """(features, window, strides) of each."""
        if not self.bottleneck:
            return [(self.inner or self.features, 3, self.strides), (self.features, 3, 1)]
        inner = self.inner or self.features // 4
        first, second = (1, self.strides) if self.stride_in_3x3 else (self.strides, 1)
        return [(inner, 1, first), (inner, 3, second), (self.features, 1, 1)]

    def _conv(self, features: int, window: int, strides: int, name: str) -> Conv:
        return Conv(
            features,
            (window, window),
            strides=strides,
            padding="SAME_SYMMETRIC",
            use_bias=False,
            kernel_init=he_normal,
            dtype=self.dtype,
            name=name,
        )

    def _norm(self, which: int | str, train: bool, *, zero: bool = False) -> BatchNorm:
        return BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            scale_init=nn.initializers.zeros if zero else nn.initializers.ones,
            dtype=self.dtype,
            name="shortcut_norm" if which == "shortcut" else f"norm{which}",
        )

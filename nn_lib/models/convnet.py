"""A plain convolutional classifier for signals, images or volumes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from nn_lib.checks import UserError
from nn_lib.layers import BatchNorm, Conv, global_avg_pool
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.conv import Padding
from nn_lib.layers.dense import Dense


class ConvNet(nn.Module):
    """Convolution, batch norm (optional), activation, dropout (optional), repeated; then linear.

    `[B, *spatial, C] -> [B, num_classes]`; `num_classes=None` gives the features. The length of
    `windows[0]` is the number of spatial dimensions.

    Attributes:
      features: output channels of every convolution.
      windows: one window per convolution.
      strides: one stride per convolution, the same in every dimension.
      padding: of every convolution, as in `nn_lib.layers.convolve`.
      global_pool: average over space before the linear layer instead of flattening.
    """

    features: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    padding: Padding = "SAME"
    num_classes: int | None = None
    activation: Callable = nn.relu
    batch_norm: bool = False
    dropout: float = 0.0
    global_pool: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        if not len(self.features) == len(self.windows) == len(self.strides):
            raise UserError(
                "ConvNet expects one window and one stride for every entry of features, got "
                f"{len(self.features)} features, {len(self.windows)} windows and "
                f"{len(self.strides)} strides"
            )
        x = inputs
        for features, window, stride in zip(self.features, self.windows, self.strides):
            x = Conv(
                features,
                window,
                strides=stride,
                padding=self.padding,
                use_bias=not self.batch_norm,
                dtype=self.dtype,
            )(x)
            if self.batch_norm:
                x = BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)
            x = self.activation(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = global_avg_pool(x) if self.global_pool else x.reshape(x.shape[0], -1)
        if self.num_classes is None:
            return x
        return at_least_float32(Dense(self.num_classes, dtype=self.dtype)(x))

"""Small building blocks of convnets: a named function, convolution-norm-activation, Inception."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.batch_norm import BatchNorm
from nn_lib.layers.conv import Conv
from nn_lib.layers.pooling import max_pool
from nn_lib.layers.windows import Extent, Padding

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, sqrt(2 / fan_out)): keeps the variance of gradients through a ReLU net (He et al. 2015)."""


class Apply(nn.Module):
    """A function without parameters as a module, so that it has a name: `Apply(nn.relu)(x)`.

    What has a name can be captured, and has a row of its own in a summary.
    """

    function: Callable

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


class ConvUnit(nn.Module):
    """Convolution, batch norm if asked for, activation; `[B, *spatial, C] -> [B, *out, features]`.

    Attributes:
      use_bias: of the convolution; None means where no batch norm follows.
      momentum: of the running statistics: `new = momentum old + (1 - momentum) batch`. Torch calls
        1 - momentum so.
    """

    features: int
    window: Sequence[int]
    strides: Extent = 1
    padding: Padding = "SAME_SYMMETRIC"
    use_bias: bool | None = None
    batch_norm: bool = False
    activation: Callable = nn.relu
    kernel_init: Callable = he_normal
    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = Conv(
            self.features,
            self.window,
            strides=self.strides,
            padding=self.padding,
            use_bias=not self.batch_norm if self.use_bias is None else self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.batch_norm:
            x = BatchNorm(
                use_running_average=not train,
                momentum=self.momentum,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name="norm",
            )(x)
        return self.activation(x)


class Inception(nn.Module):
    """Four paths side by side, their channels concatenated: 1x1, 3x3, 5x5 and pooled.

    `[B, H, W, C] -> [B, H, W, ones + threes + fives + pooled]`. The 3x3 and 5x5 paths first reduce
    the channels by 1x1 convolutions, which is what makes them affordable.

    Attributes:
      ones, reduce3, threes, reduce5, fives, pooled: the columns of the paper's table 1.
      window5: the window of the fourth column's path; torchvision uses 3 there.

    Szegedy et al. 2015, "Going deeper with convolutions".
    """

    ones: int
    reduce3: int
    threes: int
    reduce5: int
    fives: int
    pooled: int
    window5: int = 5
    batch_norm: bool = False
    epsilon: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def unit(features: int, window: int, name: str) -> ConvUnit:
            return ConvUnit(
                features,
                (window, window),
                batch_norm=self.batch_norm,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=name,
            )

        pool = functools.partial(max_pool, window=3, strides=1, padding=1)
        paths = [
            unit(self.ones, 1, "conv1x1")(x, train),
            unit(self.threes, 3, "conv3x3")(unit(self.reduce3, 1, "reduce3x3")(x, train), train),
            unit(self.fives, self.window5, "conv5x5")(
                unit(self.reduce5, 1, "reduce5x5")(x, train), train
            ),
            unit(self.pooled, 1, "pool_project")(Apply(pool, name="pool")(x), train),
        ]
        return jnp.concatenate(paths, axis=-1)

"""AlexNet: Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep
convolutional neural networks"."""

import functools
from typing import Any

import flax.linen as nn
import jax

from nn_lib.checks import check_choice
from nn_lib.layers import Apply, Conv, LocalResponseNorm, adaptive_avg_pool, max_pool
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense
from nn_lib.models.image_model import ImageModel

ORDERS = ("pool_norm", "norm_pool", "pool")


class AlexNet(ImageModel):
    """Five convolutions and three dense layers, `[B, 227, 227, 3] -> [B, num_classes]`.

    55x55x96 after conv1, 27x27x256 after conv2, 13x13x384, 13x13x384 and 13x13x256 after conv3 to
    conv5, 6x6x256 after the last pool; 650 thousand units. 62,378,344 parameters and 1,135,256,096
    multiply-adds; with `groups=2`, the two towers of the paper's two GPUs, 60,965,224 and
    724,406,816. `num_classes=None` gives the 4096 features.

    Attributes:
      widths: output channels of the convolutions.
      groups: 2 splits conv2, conv4 and conv5 in two towers.
      order: after conv1 and conv2 'pool_norm', as the lecture's table; 'norm_pool', as the paper;
        'pool', no response normalisation, as torchvision.
      stem_padding: of conv1; 2 for images of 224 pixels (torchvision).
      pooled: the pixels that fc6 gets are averaged to pooled x pooled (torchvision: 6), so that
        any size of image fits; None takes them as they are.
      dropout: of fc6's and fc7's outputs; with `dropout_first` of their inputs (torchvision).
    """

    made_for = "227x227 pixels (torchvision's form for 224x224)"

    num_classes: int | None = 1000
    widths: tuple[int, ...] = (96, 256, 384, 384, 256)
    groups: int = 1
    order: str = "pool_norm"
    stem_padding: int = 0
    pooled: int | None = None
    dropout: float = 0.5
    dropout_first: bool = False
    dtype: Any = None

    @nn.compact
    def network(self, images: jax.Array, train: bool) -> jax.Array:
        check_choice("AlexNet: order", self.order, ORDERS)
        pool = functools.partial(max_pool, window=3, strides=2)
        relu = functools.partial(Apply, nn.relu)
        x = self._conv(1, 11, strides=4, padding=self.stem_padding)(images)
        x = self._shrink(pool, relu(name="relu1")(x), 1)
        x = self._conv(2, 5, groups=self.groups, bias=1.0)(x)
        x = self._shrink(pool, relu(name="relu2")(x), 2)
        x = relu(name="relu3")(self._conv(3, 3)(x))
        x = relu(name="relu4")(self._conv(4, 3, groups=self.groups, bias=1.0)(x))
        x = relu(name="relu5")(self._conv(5, 3, groups=self.groups, bias=1.0)(x))
        x = Apply(pool, name="pool3")(x)
        if self.pooled:
            x = adaptive_avg_pool(x, self.pooled)
        x = x.reshape(x.shape[0], -1)
        for i in (6, 7):
            drop = nn.Dropout(self.dropout, deterministic=not train)
            x = drop(x) if self.dropout_first else x
            x = relu(name=f"relu{i}")(self._dense(4096, f"fc{i}", bias=1.0)(x))
            x = x if self.dropout_first else drop(x)
        if self.num_classes is None:
            return x
        return at_least_float32(self._dense(self.num_classes, "fc8")(x))

    def _shrink(self, pool, x: jax.Array, i: int) -> jax.Array:
        layers: dict[str, Any] = {"pool": Apply(pool, name=f"pool{i}")}
        if self.order != "pool":
            layers["norm"] = LocalResponseNorm(name=f"norm{i}")
        for layer in self.order.split("_"):
            x = layers[layer](x)
        return x

    def _conv(self, i: int, window: int, *, strides=1, padding=None, groups=1, bias=0.0) -> Conv:
        """The i-th convolution; every weight begins as N(0, .01), as in the paper."""
        return Conv(
            self.widths[i - 1],
            (window, window),
            strides=strides,
            padding="SAME_SYMMETRIC" if padding is None else padding,
            groups=groups,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=nn.initializers.constant(bias),
            dtype=self.dtype,
            name=f"conv{i}",
        )

    def _dense(self, features: int, name: str, *, bias: float = 0.0) -> Dense:
        return Dense(
            features,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=nn.initializers.constant(bias),
            dtype=self.dtype,
            name=name,
        )

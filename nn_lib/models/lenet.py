"""LeNet-5 in its modern form; `lenet_original` has the paper's.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition".
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from nn_lib.checks import UserError
from nn_lib.layers import Apply, Conv, max_pool
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense
from nn_lib.models.image_model import ImageModel


class LeNet5(ImageModel):
    """LeNet-5 with full connections into C3, plain max pooling and a linear output.

    `[B, 32, 32, C] -> [B, num_classes]`: C1 6@28x28, S2 6@14x14, C3 16@10x10, S4 16@5x5, C5 120,
    F6 84. With one input channel and 10 classes 61,706 parameters and 416,520 multiply-adds.
    `num_classes=None` gives the 84 features.
    """

    num_classes: int | None = 10
    activation: Callable = nn.relu
    dtype: Any = None

    @nn.compact
    def network(self, images: jax.Array, train: bool) -> jax.Array:
        check_32("LeNet5", images)
        f = self.activation
        x = Apply(_pool, name="S2")(f(Conv(6, (5, 5), dtype=self.dtype, name="C1")(images)))
        x = Apply(_pool, name="S4")(f(Conv(16, (5, 5), dtype=self.dtype, name="C3")(x)))
        x = f(Conv(120, (5, 5), dtype=self.dtype, name="C5")(x)).reshape(x.shape[0], 120)
        x = f(Dense(84, dtype=self.dtype, name="F6")(x))
        if self.num_classes is None:
            return x
        return at_least_float32(Dense(self.num_classes, dtype=self.dtype, name="output")(x))


def check_32(who: str, images: jax.Array) -> None:
    """Raises UserError unless the images have 32x32 pixels."""
    if images.shape[1:3] != (32, 32):
        raise UserError(
            f"{who} expects images [B, 32, 32, C], got {list(images.shape)}; pad 28x28 digits by 2 "
            "on every side"
        )


def _pool(x: jax.Array) -> jax.Array:
    return max_pool(x, 2)

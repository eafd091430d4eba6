"""The small convnet for 32x32 colour images that introductions to deep learning begin with."""

from typing import Any

import flax.linen as nn
import jax

from nn_lib.layers import Apply, Conv, max_pool
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense
from nn_lib.models.image_model import ImageModel


class CifarNet(ImageModel):
    """Two 5x5 convolutions, each with a ReLU and a 2x2 max pool, then 120, 84, `num_classes`.

    `[B, 32, 32, C] -> [B, num_classes]`; maps of 28, 14, 10 and 5 pixels. With 3 channels and 10
    classes 62,006 parameters and 651,720 multiply-adds. `num_classes=None` gives the 84 features.
    """

    made_for = "32x32 pixels"

    num_classes: int | None = 10
    dtype: Any = None

    @nn.compact
    def network(self, images: jax.Array, train: bool) -> jax.Array:
        x = images
        for i, features in enumerate((6, 16), start=1):
            x = Conv(features, (5, 5), dtype=self.dtype, name=f"conv{i}")(x)
            x = Apply(nn.relu, name=f"relu{i}")(x)
            x = Apply(_pool, name=f"pool{i}")(x)
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate((120, 84), start=1):
            x = Dense(features, dtype=self.dtype, name=f"fc{i}")(x)
            x = Apply(nn.relu, name=f"relu{i + 2}")(x)
        if self.num_classes is None:
            return x
        return at_least_float32(Dense(self.num_classes, dtype=self.dtype, name="fc3")(x))


def _pool(x: jax.Array) -> jax.Array:
    return max_pool(x, 2)

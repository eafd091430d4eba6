"""VGG: Simonyan & Zisserman 2015, "Very deep convolutional networks for large-scale image
recognition"."""

import functools
from typing import Any

import flax.linen as nn
import jax

from nn_lib.layers import Apply, ConvUnit, adaptive_avg_pool, max_pool
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense
from nn_lib.models.image_model import ImageModel


class VGG(ImageModel):
    """3x3 convolutions in five stages, each ended by a 2x2 max pool, then 4096, 4096, classes.

    `[B, 224, 224, 3] -> [B, num_classes]`. VGG16 has 138,357,544 parameters and 15,470,264,320
    multiply-adds. `num_classes=None` gives the 4096 features.

    Attributes:
      stage_sizes: convolutions of each stage, of 64, 128, 256, 512 and 512 channels.
      batch_norm: after every convolution.
      pooled: the pixels that fc6 gets are averaged to pooled x pooled (torchvision: 7), so that
        any size of image fits; None takes them as they are.
      remat: what is computed again in the backward pass, to save memory: 'none', 'full' (all
        within stages) or 'dots' (but convolutions and products).
    """

    stage_sizes: tuple[int, ...]
    num_classes: int | None = 1000
    batch_norm: bool = False
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    pooled: int | None = None
    dropout: float = 0.5
    remat: str = "none"
    dtype: Any = None

    @nn.compact
    def network(self, images: jax.Array, train: bool) -> jax.Array:
        x = images
        pool = functools.partial(max_pool, window=2)
        for stage in range(1, len(self.stage_sizes) + 1):

            def convolve(self: "VGG", x: jax.Array, stage: int = stage) -> jax.Array:
                return self._stage(stage, x, train)

            x = Apply(pool, name=f"pool{stage}")(self.again(convolve)(self, x))
        if self.pooled:
            x = adaptive_avg_pool(x, self.pooled)
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(self._dense(self.hidden, name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.num_classes is None:
            return x
        return at_least_float32(self._dense(self.num_classes, "fc8")(x))

    def _stage(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        for i in range(1, self.stage_sizes[stage - 1] + 1):
            unit = ConvUnit(
                self.widths[stage - 1],
                (3, 3),
                use_bias=True,
                batch_norm=self.batch_norm,
                dtype=self.dtype,
                name=f"conv{stage}_{i}",
            )
            x = unit(x, train)
        return x

    def _dense(self, features: int, name: str) -> Dense:
        init = nn.initializers.normal(0.01)
        return Dense(features, kernel_init=init, dtype=self.dtype, name=name)


VGG11 = functools.partial(VGG, (1, 1, 2, 2, 2))
VGG13 = functools.partial(VGG, (2, 2, 2, 2, 2))
VGG16 = functools.partial(VGG, (2, 2, 3, 3, 3))
VGG19 = functools.partial(VGG, (2, 2, 4, 4, 4))

"""ResNet: He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition", and v2."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from nn_lib.checks import UserError, check_choice
from nn_lib.layers import Apply, BatchNorm, Conv, ResidualBlock, global_avg_pool, max_pool
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.blocks import he_normal
from nn_lib.layers.dense import Dense
from nn_lib.layers.residual import SHORTCUTS
from nn_lib.models.image_model import ImageModel


class ResNet(ImageModel):
    """Stages of residual blocks of which each halves the maps and doubles the channels.

    `[B, 224, 224, 3] -> [B, num_classes]`; ResNet50 has 25,557,032 parameters and 4,089,184,256
    multiply-adds (3,857,973,248 in the paper's v1, `stride_in_3x3=False`). `num_classes=None`
    gives the features, averaged over space.

    Attributes:
      stage_sizes: blocks of each stage.
      bottleneck: 1x1, 3x3, 1x1 with four times the channels outside, instead of two 3x3.
      width: of the first stage's 3x3 convolutions; the next have 2, 4, 8 times as many.
      stem_width: channels of the first convolution; None means `width`.
      inner_factor: of the 3x3 convolutions of bottlenecks alone (2 in torchvision's wide nets).
      small_images: a 3x3 stem with stride 1 and no pool, for 32x32 images.
      remat: what is computed again in the backward pass, to save memory: 'none', 'full' (all
        within blocks) or 'dots' (but convolutions and products).
      stride_in_3x3, shortcut, zero_init, pre_activation: as in `nn_lib.layers.ResidualBlock`.
    """

    stage_sizes: tuple[int, ...]
    num_classes: int | None = 1000
    bottleneck: bool = False
    width: int = 64
    stem_width: int | None = None
    inner_factor: int = 1
    small_images: bool = False
    stride_in_3x3: bool = True
    shortcut: str = "B"
    zero_init: bool = False
    pre_activation: bool = False
    remat: str = "none"
    dtype: Any = None

    @nn.compact
    def network(self, images: jax.Array, train: bool) -> jax.Array:
        check_choice("ResNet: shortcut", self.shortcut, SHORTCUTS)
        window, strides = (3, 1) if self.small_images else (7, 2)
        x = Conv(
            self.stem_width or self.width,
            (window, window),
            strides=strides,
            padding="SAME_SYMMETRIC",
            use_bias=False,
            kernel_init=he_normal,
            dtype=self.dtype,
            name="conv1",
        )(images)
        if not self.pre_activation:
            x = Apply(nn.relu, name="relu1")(self._norm("norm1", train)(x))
        if not self.small_images:
            pool = functools.partial(max_pool, window=3, strides=2, padding=1)
            x = Apply(pool, name="pool1")(x)
        for i, size in enumerate(self.stage_sizes):
            inner = self.width * 2**i
            block = functools.partial(
                self.again(ResidualBlock, train_argument=2),
                features=inner * (4 if self.bottleneck else 1),
                bottleneck=self.bottleneck,
                inner=inner * self.inner_factor,
                stride_in_3x3=self.stride_in_3x3,
                shortcut=self.shortcut,
                zero_init=self.zero_init,
                pre_activation=self.pre_activation,
                dtype=self.dtype,
            )
            x = _Stage(size, block, strides=1 if i == 0 else 2, name=f"stage{i + 1}")(x, train)
        if self.pre_activation:
            x = nn.relu(self._norm("norm_last", train)(x))
        x = Apply(global_avg_pool, name="pool_last")(x)
        if self.num_classes is None:
            return x
        return at_least_float32(Dense(self.num_classes, dtype=self.dtype, name="linear")(x))

    def _norm(self, name: str, train: bool) -> BatchNorm:
        return BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype, name=name)


class _Stage(nn.Module):
    """`block1` to `blockN`; the first one takes the strides."""

    size: int
    block: Callable
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i in range(self.size):
            strides = self.strides if i == 0 else 1
            x = self.block(strides=strides, name=f"block{i + 1}")(x, train)
        return x


ResNet18 = functools.partial(ResNet, (2, 2, 2, 2))
ResNet34 = functools.partial(ResNet, (3, 4, 6, 3))
ResNet50 = functools.partial(ResNet, (3, 4, 6, 3), bottleneck=True)
ResNet101 = functools.partial(ResNet, (3, 4, 23, 3), bottleneck=True)
ResNet152 = functools.partial(ResNet, (3, 8, 36, 3), bottleneck=True)


def CifarResNet(depth: int = 20, shortcut: str = "A", **fields: Any) -> ResNet:
    """The 32x32 network of 6n + 2 layers (9n + 2 with bottlenecks): 16, 32 and 64 channels.

    A wide residual network (Zagoruyko & Komodakis 2016) is `pre_activation=True, shortcut="B",
    width=16 * k, stem_width=16`; its paper counts the projections, 6n + 4 layers, so that WRN-28-10
    is depth 26.

    Raises:
      UserError: a depth that is not 6n + 2.
    """
    per_block = 3 if fields.get("bottleneck") else 2
    if depth < 2 + 3 * per_block or (depth - 2) % (3 * per_block):
        n = max(1, round((depth - 2) / (3 * per_block)))
        raise UserError(
            f"CifarResNet has {3 * per_block}n + 2 layers, which {depth} is not; the nearest is "
            f"{3 * per_block * n + 2}"
        )
    sizes = ((depth - 2) // (3 * per_block),) * 3
    defaults = {"num_classes": 10, "width": 16, "small_images": True}
    return ResNet(sizes, shortcut=shortcut, **(defaults | fields))

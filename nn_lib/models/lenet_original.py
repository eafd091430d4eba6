"""LeNet-5 as published in 1998: partial connections, trainable sub-sampling, RBF outputs.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition".
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError
from nn_lib.layers import Conv, PartialConv, Subsampling, lenet_squash
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense
from nn_lib.layers.subsampling import lenet_uniform
from nn_lib.models.image_model import ImageModel
from nn_lib.models.lenet import check_32

# The maps of S2 that each of C3's sixteen maps sees (table I of the paper).
C3_TABLE = (
    *((i, (i + 1) % 6, (i + 2) % 6) for i in range(6)),
    *((i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6) for i in range(6)),
    *((i, i + 1, (i + 3) % 6, (i + 4) % 6) for i in range(3)),
    (0, 1, 2, 3, 4, 5),
)

# What F6 should look like for each digit: a picture of 7x12 pixels, ink +1 and paper -1.
_DIGITS = """
..###.. ...#... .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..##... ##...## ##...## ...###. ##..... .##.... .....## ##...## ##...##
##...## .###... ##...## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...#... .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...#... ....##. ....##. ##..##. ######. ######. ....##. .##.##. ##...##
##...## ...#... ...##.. ..###.. ##..##. .....## ##...## ...##.. .#####. .######
##...## ...#... ..##... ....##. ####### .....## ##...## ...##.. ##...## .....##
##...## ...#... .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...#... ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...#... ##..... ##...## ....##. ##...## ##...## .##.... ##...## .....##
.##.##. ..###.. ##....# ##...## ....##. ##...## .##.##. .##.... ##...## ....##.
..###.. .#####. ####### .#####. ....##. .#####. ..###.. .##.... .#####. .####..
"""
_ROWS = [line.split() for line in _DIGITS.strip().splitlines()]
CODES = np.array(
    [[1.0 if pixel == "#" else -1.0 for row in _ROWS for pixel in row[d]] for d in range(10)]
)


class LeNet5Original(ImageModel):
    """The network of the paper: 60,000 parameters and 340,908 connections.

    `[B, 32, 32, 1] -> [B, num_classes]`, paper at -0.1 and ink at 1.175. C1 6@28x28, S2 6@14x14,
    C3 16@10x10 with the connections of `C3_TABLE`, S4 16@5x5, C5 120, F6 84, all squashed by
    `f(a) = 1.7159 tanh(2a/3)`. The outputs are minus the penalties
    `y_i = sum_j (x_j - w_ij)^2`, so that the largest is the answer; w are the fixed `CODES`. Train
    it with `objectives.classify(loss=losses.maximum_a_posteriori)`. `num_classes=None` gives the 84
    features.
    """

    num_classes: int | None = 10
    dtype: Any = None

    @nn.compact
    def network(self, images: jax.Array, train: bool) -> jax.Array:
        check_32("LeNet5Original", images)
        if self.num_classes is not None and self.num_classes > len(CODES):
            raise UserError(
                f"LeNet5Original has codes for {len(CODES)} digits, num_classes is "
                f"{self.num_classes}; use LeNet5"
            )
        f = lenet_squash
        x = f(self._conv(6, 25 * images.shape[-1], "C1")(images))
        x = f(Subsampling(dtype=self.dtype, name="S2")(x))
        x = f(PartialConv(C3_TABLE, (5, 5), dtype=self.dtype, name="C3")(x))
        x = f(Subsampling(dtype=self.dtype, name="S4")(x))
        x = f(self._conv(120, 25 * 16, "C5")(x)).reshape(x.shape[0], 120)
        F6 = Dense(84, kernel_init=lenet_uniform(120), dtype=self.dtype, name="F6")
        x = f(F6(x))
        if self.num_classes is None:
            return x
        codes = jnp.asarray(CODES[: self.num_classes])
        x = at_least_float32(x)
        return -jnp.sum(jnp.square(x[:, None] - codes.astype(x.dtype)), axis=-1)

    def _conv(self, features: int, fan_in: int, name: str) -> Conv:
        init = lenet_uniform(fan_in)
        return Conv(features, (5, 5), kernel_init=init, dtype=self.dtype, name=name)

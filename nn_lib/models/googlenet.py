"""GoogLeNet: Szegedy et al. 2015, "Going deeper with convolutions"."""

import functools
from typing import Any

import flax.linen as nn
import jax

from nn_lib.layers import (
    Apply,
    ConvUnit,
    Inception,
    LocalResponseNorm,
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    max_pool,
)
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.dense import Dense
from nn_lib.models.image_model import ImageModel

# Table 1 of the paper: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool project.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNet(ImageModel):
    """Nine Inception blocks, `[B, 224, 224, 3] -> [B, num_classes]`; 22 layers with weights.

    6,998,552 parameters and 1,582,671,872 multiply-adds; `num_classes=None` gives the 1024
    features. Maps of 56, 28, 14 and 7 pixels, since the pools round up.

    Attributes:
      auxiliary: two more classifiers, at 4a and 4d, which keep the gradient large in the middle of
        the network. In training the call returns `(logits, (aux_4a, aux_4d))`, whose losses weigh
        .3 in the paper (`objectives.classify(auxiliary_weight=.3)`); in evaluation `logits` alone.
      batch_norm: after every convolution, and no local response normalisation.
      window5: of the 5x5 paths (torchvision: 3). pool4: window before 5a (torchvision: 2).
      adaptive: the heads average to 4x4 whatever the size of the image (torchvision).
      remat: what is computed again in the backward pass, to save memory: 'none', 'full' (all
        within Inceptions) or 'dots' (but convolutions and products).
    """

    num_classes: int | None = 1000
    auxiliary: bool = False
    batch_norm: bool = False
    window5: int = 5
    pool4: int = 3
    adaptive: bool = False
    epsilon: float = 1e-5
    dropout: float = 0.4
    auxiliary_dropout: float = 0.7
    remat: str = "none"
    dtype: Any = None

    @nn.compact
    def network(self, images: jax.Array, train: bool) -> Any:
        x = self._unit(64, 7, "conv1", strides=2)(images, train)
        x = self._response_norm("norm1")(Apply(_halve, name="pool1")(x))
        x = self._unit(64, 1, "conv2_reduce")(x, train)
        x = self._response_norm("norm2")(self._unit(192, 3, "conv2")(x, train))
        x = Apply(_halve, name="pool2")(x)
        with_heads = self.auxiliary and (train or self.is_initializing())
        branches, heads = ("4a", "4d") if with_heads else (), []
        for name, features in INCEPTIONS.items():
            if name == "4a":
                x = Apply(_halve, name="pool3")(x)
            if name == "5a":
                pool = functools.partial(_halve, window=self.pool4)
                x = Apply(pool, name="pool4")(x)
            x = self.again(Inception, train_argument=2)(
                *features,
                window5=self.window5,
                batch_norm=self.batch_norm,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"inception{name}",
            )(x, train)
            if name in branches and self.num_classes is not None:
                heads.append(self._head(name, self.num_classes)(x, train))
        x = Apply(global_avg_pool, name="pool5")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.num_classes is None:
            return x
        logits = Dense(self.num_classes, dtype=self.dtype, name="linear")(x)
        logits = at_least_float32(logits)
        return (logits, tuple(heads)) if train and heads else logits

    def _unit(self, features: int, window: int, name: str, strides: int = 1) -> ConvUnit:
        return ConvUnit(
            features,
            (window, window),
            strides=strides,
            batch_norm=self.batch_norm,
            epsilon=self.epsilon,
            dtype=self.dtype,
            name=name,
        )

    def _response_norm(self, name: str):
        return (lambda x: x) if self.batch_norm else LocalResponseNorm(name=name)

    def _head(self, name: str, num_classes: int) -> "AuxiliaryHead":
        return AuxiliaryHead(
            num_classes,
            batch_norm=self.batch_norm,
            adaptive=self.adaptive,
            epsilon=self.epsilon,
            dropout=self.auxiliary_dropout,
            dtype=self.dtype,
            name=f"auxiliary{name}",
        )


class AuxiliaryHead(nn.Module):
    """Average pool to 4x4, 128 1x1 convolutions, 1024 units, `num_classes`."""

    num_classes: int
    batch_norm: bool = False
    adaptive: bool = False
    epsilon: float = 1e-5
    dropout: float = 0.7
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.adaptive:
            pool = functools.partial(adaptive_avg_pool, size=4)
        else:
            pool = functools.partial(avg_pool, window=5, strides=3)
        x = Apply(pool, name="pool")(x)
        unit = ConvUnit(
            128,
            (1, 1),
            batch_norm=self.batch_norm,
            epsilon=self.epsilon,
            dtype=self.dtype,
            name="conv",
        )
        x = unit(x, train)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(Dense(1024, dtype=self.dtype, name="fc1")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return at_least_float32(Dense(self.num_classes, dtype=self.dtype, name="fc2")(x))


def _halve(x: jax.Array, window: int = 3) -> jax.Array:
    return max_pool(x, window, strides=2, ceil_mode=True)

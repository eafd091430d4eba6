"""ResNet and GoogLeNet of stock Flax layers alone, as one writes them from its documentation."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from nn_lib.models.googlenet import INCEPTIONS


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    features: int
    window: int
    strides: int = 1
    activate: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train):
        k, pad = (self.window,) * 2, ((self.window // 2,) * 2,) * 2
        conv = nn.Conv(self.features, k, self.strides, pad, use_bias=False, dtype=self.dtype)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(conv(x))
        return nn.relu(x) if self.activate else x


class ResNet(nn.Module):
    """Version 1.5: the stride is in the 3x3 convolution."""

    sizes: tuple[int, ...]
    bottleneck: bool
    small_images: bool = False
    classes: int = 1000
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train):
        unit = functools.partial(Unit, dtype=self.dtype)
        if self.small_images:
            x = unit(64, 3)(x, train)
        else:
            x = unit(64, 7, 2)(x, train)
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, size in enumerate(self.sizes):
            inner = 64 * 2**stage
            outer = inner * (4 if self.bottleneck else 1)
            for block in range(size):
                strides = 2 if stage and not block else 1
                if self.bottleneck:
                    y = unit(inner, 1)(x, train)
                    y = unit(inner, 3, strides)(y, train)
                    y = unit(outer, 1, activate=False)(y, train)
                else:
                    y = unit(inner, 3, strides)(x, train)
                    y = unit(outer, 3, activate=False)(y, train)
                if x.shape != y.shape:
                    x = unit(outer, 1, strides, activate=False)(x, train)
                x = nn.relu(x + y)
        return nn.Dense(self.classes, dtype=self.dtype)(x.mean((1, 2)))


class GoogLeNet(nn.Module):
    """torchvision's: batch norm, 3x3 for 5x5, both auxiliary classifiers in training."""

    classes: int = 1000
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train):
        unit = functools.partial(Unit, dtype=self.dtype)
        x = _halve(unit(64, 7, 2)(x, train))
        x = _halve(unit(192, 3)(unit(64, 1)(x, train), train))
        heads = []
        for name, (ones, reduce3, threes, reduce5, fives, pooled) in INCEPTIONS.items():
            if name in ("4a", "5a"):
                x = _halve(x, 3 if name == "4a" else 2)
            around = nn.max_pool(x, (3, 3), (1, 1), "SAME")
            paths = [
                unit(ones, 1)(x, train),
                unit(threes, 3)(unit(reduce3, 1)(x, train), train),
                unit(fives, 3)(unit(reduce5, 1)(x, train), train),
                unit(pooled, 1)(around, train),
            ]
            x = jnp.concatenate(paths, -1)
            if train and name in ("4a", "4d"):
                batch, starts = len(x), (0, 3, 7, 10)  # of 4 of the 14 pixels, as torch adapts
                rows = jnp.stack([x[:, a : a + 4].mean(1) for a in starts], 1)
                squares = jnp.stack([rows[:, :, a : a + 4].mean(2) for a in starts], 2)
                # Named, or the units after them would have other names in evaluation.
                y = unit(128, 1, name=f"head{name}")(squares, train).reshape(batch, -1)
                y = nn.relu(nn.Dense(1024, dtype=self.dtype, name=f"hidden{name}")(y))
                logits = nn.Dense(self.classes, dtype=self.dtype, name=f"logits{name}")(y)
                heads.append(logits)
        logits = nn.Dense(self.classes, dtype=self.dtype, name="logits")(x.mean((1, 2)))
        return (logits, tuple(heads)) if train else logits


def _halve(x, window=3):
    """Ceil mode: the last window may hang over the edge."""
    over = [(0, max(0, -(-(n - window) // 2) * 2 + window - n)) for n in x.shape[1:3]]
    return nn.max_pool(x, (window, window), (2, 2), over)

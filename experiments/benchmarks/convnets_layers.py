"""Single layers for `convnets`: forward, and backward to inputs and weights, on every side."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from nn_lib.layers import (
    BatchNorm,
    avg_pool,
    convolve,
    fast_paths,
    local_response_norm,
    max_pool,
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of one size.

    Attributes:
      kind: 'conv', 'max', 'avg', 'lrn' or 'norm'.
      shape: of the inputs, `[B, H, W, C]`.
    """

    name: str
    kind: str
    shape: tuple[int, int, int, int]
    features: int = 0
    window: int = 1
    strides: int = 1
    padding: int = 0
    groups: int = 1

    def values(self) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Inputs, weights and cotangent, all random."""
        rng = np.random.default_rng(0)
        out = [(n + 2 * self.padding - self.window) // self.strides + 1 for n in self.shape[1:3]]
        channels = self.shape[-1]
        weights: list[tuple[int, ...]] = []
        if self.kind == "conv":
            weights = [(self.window, self.window, channels // self.groups, self.features)]
        if self.kind == "norm":
            weights = [(channels,), (channels,)]
        shapes = [self.shape, *weights, (self.shape[0], *out, self.features or channels)]
        x, *w, d = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        return x, w, d


def _conv(name, batch, size, inputs, features, window, strides=1, groups=1):
    shape = (batch, size, size, inputs)
    return Layer(name, "conv", shape, features, window, strides, window // 2, groups)


LAYERS = [
    _conv("3x3 64, 32^2 B32", 32, 32, 64, 64, 3),
    _conv("3x3 128, 16^2 B32", 32, 16, 128, 128, 3),
    _conv("3x3 256, 8^2 B32", 32, 8, 256, 256, 3),
    _conv("3x3 512, 4^2 B32", 32, 4, 512, 512, 3),
    _conv("3x3 stride 2 256-512, 8^2 B32", 32, 8, 256, 512, 3, 2),
    _conv("3x3 64, 56^2 B8", 8, 56, 64, 64, 3),
    _conv("1x1 64-256, 56^2 B8", 8, 56, 64, 256, 1),
    _conv("1x1 1024-256, 14^2 B8", 8, 14, 1024, 256, 1),
    _conv("1x1 stride 2 256-512, 56^2 B8", 8, 56, 256, 512, 1, 2),
    _conv("7x7 stride 2 3-64, 224^2 B8", 8, 224, 3, 64, 7, 2),
    _conv("depthwise 3x3 128, 28^2 B8", 8, 28, 128, 128, 3, 1, 128),
    Layer("max 2x2, 32^2 B32", "max", (32, 32, 32, 64), 0, 2, 2),
    Layer("max 2x2, 56^2 B8", "max", (8, 56, 56, 128), 0, 2, 2),
    Layer("max 3x3 stride 2, 112^2 B8", "max", (8, 112, 112, 64), 0, 3, 2, 1),
    Layer("average 2x2, 32^2 B32", "avg", (32, 32, 32, 64), 0, 2, 2),
    Layer("average 3x3 stride 2, 32^2 B32", "avg", (32, 32, 32, 64), 0, 3, 2, 1),
    Layer("LRN 5, 56^2 B8", "lrn", (8, 56, 56, 64)),
    Layer("LRN 5, 27^2 B32", "lrn", (32, 27, 27, 96)),
    Layer("batch norm, 56^2 B8", "norm", (8, 56, 56, 256)),
    Layer("batch norm, 32^2 B32", "norm", (32, 32, 32, 64)),
]


class JaxLayer:
    """`side(train)`: forward, or forward and backward under the cotangent, every result kept."""

    def __init__(self, apply: Callable, layer: Layer):
        x, weights, d = jax.tree.map(jnp.asarray, layer.values())

        def backward(x, weights, d):
            y, vjp = jax.vjp(apply, x, weights)
            dx, dw = vjp(d)
            # Nobody asks for the gradient of images.
            return (y, dw) if layer.shape[-1] == 3 else (y, dx, dw)

        self._arguments = {False: (x, weights), True: (x, weights, d)}
        programs = {False: jax.jit(apply), True: jax.jit(backward)}
        self.compiled: dict[bool, Any] = {
            train: program.lower(*self._arguments[train]).compile()
            for train, program in programs.items()
        }

    def __call__(self, train: bool) -> None:
        jax.block_until_ready(self.compiled[train](*self._arguments[train]))


def ours(layer: Layer) -> JaxLayer:
    k, s, p = layer.window, layer.strides, layer.padding
    functions: dict[str, Callable] = {
        "conv": lambda x, w: convolve(x, w[0], strides=s, padding=p, groups=layer.groups),
        "max": lambda x, w: max_pool(x, k, s, p),
        "avg": lambda x, w: avg_pool(x, k, s, p, count_include_pad=True),
        "lrn": lambda x, w: local_response_norm(x),
        "norm": _norm(BatchNorm),
    }
    return JaxLayer(functions[layer.kind], layer)


def slow_paths(layer: Layer) -> JaxLayer:
    """Ours with the switch off."""
    with fast_paths(False):
        return ours(layer)


def flax(layer: Layer) -> JaxLayer:
    k, s = (layer.window,) * 2, (layer.strides,) * 2
    pads = ((layer.padding,) * 2,) * 2

    def conv(x, w):
        module = nn.Conv(
            layer.features, k, s, pads, feature_group_count=layer.groups, use_bias=False
        )
        return module.apply({"params": {"kernel": w[0]}}, x)

    def norm(x, w):  # Flax has no such layer; this is how its users write it
        sums = lax.reduce_window(
            x * x, 0.0, lax.add, (1, 1, 1, 5), (1,) * 4, ((0, 0),) * 3 + ((2, 2),)
        )
        return x / (2 + 1e-4 * sums) ** 0.75

    functions: dict[str, Callable] = {
        "conv": conv,
        "max": lambda x, w: nn.max_pool(x, k, s, pads),
        "avg": lambda x, w: nn.avg_pool(x, k, s, pads),
        "lrn": norm,
        "norm": _norm(nn.BatchNorm),
    }
    return JaxLayer(functions[layer.kind], layer)


def _norm(module) -> Callable:
    def apply(x, w):
        params = {"scale": w[0], "bias": w[1]}
        stats = {"mean": jnp.zeros_like(w[0]), "var": jnp.ones_like(w[0])}
        variables = {"params": params, "batch_stats": stats}
        return module(use_running_average=False).apply(variables, x, mutable=["batch_stats"])[0]

    return apply


def torch(layer: Layer) -> Callable[[bool], None]:
    """Channels last, as torch advises for convnets."""
    import torch
    from torch.nn import functional

    def channels_second(array: np.ndarray):
        return torch.tensor(array).permute(0, 3, 1, 2)

    inputs, weights, cotangent = layer.values()
    x, d = channels_second(inputs).requires_grad_(layer.shape[-1] != 3), channels_second(cotangent)
    w = [torch.tensor(weight).requires_grad_() for weight in weights]
    if layer.kind == "conv":
        kernel = torch.tensor(weights[0].transpose(3, 2, 0, 1).copy())
        w = [kernel.contiguous(memory_format=torch.channels_last).requires_grad_()]
    k, s, p = layer.window, layer.strides, layer.padding
    functions: dict[str, Callable] = {
        "conv": lambda: functional.conv2d(x, w[0], None, s, p, 1, layer.groups),
        "max": lambda: functional.max_pool2d(x, k, s, p),
        "avg": lambda: functional.avg_pool2d(x, k, s, p),
        "lrn": lambda: functional.local_response_norm(x, 5, 5e-4, 0.75, 2.0),
        "norm": lambda: functional.batch_norm(x, None, None, w[0], w[1], True),
    }
    apply = functions[layer.kind]

    def side(train: bool) -> None:
        if not train:
            with torch.no_grad():
                apply()
            return
        for leaf in (x, *w):
            leaf.grad = None
        apply().backward(d)

    return side


PEERS = {"torch": torch, "flax": flax, "slow paths": slow_paths}

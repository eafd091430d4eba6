"""Local response normalisation; layer, group and instance norm are Flax's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nn_lib.checks import UserError
from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.fast_paths import is_fast

GroupNorm, InstanceNorm, LayerNorm = nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm

WIDEST_BAND = 1024
"""Channels up to which sums over neighbouring ones are a product with a band matrix on a CPU."""


def local_response_norm(
    x: jax.Array,
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
) -> jax.Array:
    """`b_c = a_c / (k + alpha sum_{c-n/2..c+n/2} a^2)^beta` over neighbouring channels.

    `[..., C] -> [..., C]`, n = `size`; the window is cut off at the first and the last channel.
    As the paper prints it, alpha is not divided by n; torch and Caffe divide, so that their
    alpha = 5e-4 is our 1e-4 for n = 5. Half precision is computed in float32.

    Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural
    networks".
    """
    if size < 1:
        raise UserError(f"local_response_norm expects a size of at least 1, got {size}")
    before, after = size // 2, (size - 1) // 2
    given, x = x.dtype, at_least_float32(x)
    if is_fast(x) and x.shape[-1] <= WIDEST_BAND:
        apart = np.subtract.outer(range(x.shape[-1]), range(x.shape[-1]))  # input - output channel
        squares = (x * x) @ ((-before <= apart) & (apart <= after)).astype(x.dtype)
    else:
        ones = (1,) * (x.ndim - 1)
        sides = [(0, 0)] * (x.ndim - 1) + [(before, after)]
        squares = lax.reduce_window(x * x, 0.0, lax.add, (*ones, size), (*ones, 1), sides)
    scale = k + alpha * squares
    if beta == 0.75:  # the paper's; two roots are quicker than a power
        root = jnp.sqrt(scale)
        return (x / (root * jnp.sqrt(root))).astype(given)
    return (x * jnp.power(scale, -beta)).astype(given)


class LocalResponseNorm(nn.Module):
    """`local_response_norm` as a layer; it has no parameters."""

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75

    def __call__(self, x: jax.Array) -> jax.Array:
        return local_response_norm(x, self.size, self.k, self.alpha, self.beta)

"""Batch normalisation: Flax's, with statistics that read the inputs alone and cannot cancel."""

import inspect
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.layers.fast_paths import is_fast

TRUSTED = 256.0
"""Mean squares up to this multiple of the variance are subtracted: 256 eps is 3e-5 in float32."""

FLAXS = inspect.unwrap(nn.BatchNorm.__call__)


class BatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm`, `(x - mean) / sqrt(var + epsilon) * scale + bias` for each channel.

    With its fields, variables and results. In training on a CPU the sums of x and of its square
    are taken without an array in between; where those would cancel (a mean of more than 16
    standard deviations) further passes give the variance, where Flax's has lost its digits. What
    the fast path has not (`mask`, `axis_name`, other axes, half precision) is Flax's own.

    Ioffe & Szegedy 2015, "Batch normalization: accelerating deep network training by reducing
    internal covariate shift".
    """

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        fixed = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        plain = mask is None and self.axis_name is None and self.axis in (-1, x.ndim - 1)
        dtype = jnp.result_type(x, self.param_dtype) if self.dtype is None else self.dtype
        same = x.dtype == dtype and x.dtype.itemsize >= 4 and self.force_float32_reductions
        if fixed or not (plain and same and self.use_fast_variance and is_fast(x)):
            # Not `super().__call__`, which would be a second call to whoever captures or counts.
            return FLAXS(self, x, use_running_average, mask=mask)
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        mean, var = statistics(x)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        factor = lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            factor *= self.param("scale", self.scale_init, channels, self.param_dtype)
        offset = -mean * factor
        if self.use_bias:
            offset += self.param("bias", self.bias_init, channels, self.param_dtype)
        # Not (x - mean) * factor: the sum over gradients times that would need it as an array.
        return (x * factor + offset).astype(dtype)


@jax.custom_jvp
def statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of every channel of `[..., C]`."""
    axes = tuple(range(x.ndim - 1))
    count = max(1, math.prod(x.shape[:-1]))
    mean = x.sum(axes) / count
    var = (x * x).sum(axes) / count - mean * mean
    cancels = jnp.any(mean * mean > TRUSTED * var)
    return mean, lax.cond(cancels, lambda: jnp.square(x - mean).mean(axes), lambda: var)


@statistics.defjvp
def _statistics_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    axes = tuple(range(x.ndim - 1))
    mean, var = statistics(x)
    return (mean, var), (dx.mean(axes), 2 * ((x - mean) * dx).mean(axes))

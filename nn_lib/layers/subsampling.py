"""LeNet-5's own layers: trainable sub-sampling, a partly connected convolution, RBF outputs.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition".
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError
from nn_lib.layers.conv import check_inputs, convolve
from nn_lib.layers.pooling import sum_pool
from nn_lib.layers.precision import add_bias, scale_by


def lenet_uniform(fan_in: int) -> Callable:
    """Uniform on `[-2.4 / fan_in, 2.4 / fan_in]`, the paper's initialisation of every weight."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -2.4 / fan_in, 2.4 / fan_in)

    return init


class Subsampling(nn.Module):
    """`y = w_c sum(window) + b_c`: one coefficient and one bias for each map, no overlap.

    `[B, *spatial, C] -> [B, *(spatial / window), C]`.
    """

    window: Sequence[int] = (2, 2)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_inputs("Subsampling", self.window, x)
        fan_in = math.prod(self.window)
        shape, dtype = (x.shape[-1],), self.param_dtype
        coefficient = self.param("coefficient", lenet_uniform(fan_in), shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        (x,) = nn.dtypes.promote_dtype(x, dtype=self.dtype)
        return add_bias(scale_by(sum_pool(x, self.window), coefficient), bias)


class PartialConv(nn.Module):
    """A convolution in which every output map sees only the input maps of its row in `table`.

    `[B, H, W, C] -> [B, H - K + 1, W - K + 1, len(table)]`. Only the connected weights exist,
    `[*window, links]`; they are laid out in a full kernel with zeros between them, since one dense
    convolution is many times faster than one for each map. A summary counts the links.

    Raises:
      UserError: a table that names a map which the inputs have not.
    """

    table: Sequence[Sequence[int]]
    window: Sequence[int]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_inputs("PartialConv", self.window, x)
        if not self.table or any(not row or len({*row}) < len(row) for row in self.table):
            raise UserError(
                "PartialConv: every row of its table names one or more maps, each once; got "
                f"{self.table}"
            )
        links = [(i, o) for o, row in enumerate(self.table) for i in row]
        inputs, outputs = (jnp.array(column) for column in zip(*links))
        strange = [i for i, _ in links if not 0 <= i < x.shape[-1]]
        if strange:
            raise UserError(
                f"PartialConv: its table names map {strange[0]}, and the inputs "
                f"{list(x.shape)} have only {x.shape[-1]}"
            )
        fan_ins = [len(self.table[o]) * math.prod(self.window) for _, o in links]

        def init(key, shape, dtype):
            bound = 2.4 / jnp.array(fan_ins, dtype)
            return jax.random.uniform(key, shape, dtype, minval=-1) * bound

        weights = self.param("kernel", init, (*self.window, len(links)), self.param_dtype)
        shape = (len(self.table),)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        x, weights = nn.dtypes.promote_dtype(x, weights, dtype=self.dtype)
        kernel = jnp.zeros((*self.window, x.shape[-1], len(self.table)), weights.dtype)
        kernel = kernel.at[..., inputs, outputs].set(weights)
        places = math.prod(n - k + 1 for n, k in zip(x.shape[1:], self.window))
        macs = x.shape[0] * places * math.prod(self.window) * len(links)
        with jax.named_scope(f"macs={macs}"):  # the zeros are no connections
            y = convolve(x, kernel)
        return add_bias(y, bias)

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

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_inputs("Subsampling", self.window, x)
        fan_in = math.prod(self.window)
        coefficient = self.param("coefficient", lenet_uniform(fan_in), (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return coefficient * sum_pool(x, self.window) + bias


class PartialConv(nn.Module):
    """A convolution in which every output map sees only the input maps of its row in `table`.

    `[B, H, W, C] -> [B, H - K + 1, W - K + 1, len(table)]`. Only the connected weights exist: the
    rows of one length are a kernel `[*window, length, rows]`, which a grouped convolution applies
    to copies of their inputs.

    Raises:
      UserError: a table that names a map which the inputs have not.
    """

    table: Sequence[Sequence[int]]
    window: Sequence[int]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        check_inputs("PartialConv", self.window, x)
        channels = {channel for row in self.table for channel in row}
        if not channels <= set(range(x.shape[-1])):
            raise UserError(
                f"PartialConv: its table names map {max(channels)}, and the inputs "
                f"{list(x.shape)} have only {x.shape[-1]}"
            )
        outputs = []
        order = []
        for length in sorted({len(row) for row in self.table}):
            rows = [i for i, row in enumerate(self.table) if len(row) == length]
            init = lenet_uniform(length * math.prod(self.window))
            shape = (*self.window, length, len(rows))
            kernel = self.param(f"kernel_{length}", init, shape)
            copies = x[..., jnp.array([channel for i in rows for channel in self.table[i]])]
            copies, kernel = nn.dtypes.promote_dtype(copies, kernel, dtype=self.dtype)
            outputs.append(convolve(copies, kernel, groups=len(rows)))
            order += rows
        bias = self.param("bias", nn.initializers.zeros, (len(self.table),))
        back = jnp.array([order.index(i) for i in range(len(self.table))])
        y = jnp.concatenate(outputs, axis=-1)[..., back]
        return y + bias.astype(y.dtype)

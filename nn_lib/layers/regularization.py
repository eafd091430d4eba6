"""Dropout of whole maps and of whole branches; of single units it is `flax.linen.Dropout`.

All are inverted: what is kept is divided by the probability of keeping it, so that evaluation
changes nothing. The random key is the collection 'dropout'.
"""

import flax.linen as nn
import jax


class SpatialDropout(nn.Module):
    """Drops whole channels of `[B, *spatial, C]` with probability `rate`, for every example anew.

    Tompson et al. 2015, "Efficient object localization using convolutional networks".
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        space = tuple(range(1, x.ndim - 1))
        return nn.Dropout(self.rate, broadcast_dims=space, deterministic=not train)(x)


class DropPath(nn.Module):
    """Drops a residual branch `[B, ...]` with probability `rate`, for every example anew.

    Huang et al. 2016, "Deep networks with stochastic depth".
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        rest = tuple(range(1, x.ndim))
        return nn.Dropout(self.rate, broadcast_dims=rest, deterministic=not train)(x)

"""Feature maps phi(x): fixed functions that make a linear predictor `w . phi(x)` a curved one.

The constant 1 of phi is left out, since a linear layer has a bias. For `DataConfig.prepare`.
"""

import itertools
import math

import jax
import jax.numpy as jnp


def polynomial(x: jax.Array, *, degree: int) -> jax.Array:
    """All products of up to `degree` entries, `[B, D] -> [B, C(D + degree, degree) - 1]`.

    `(x, x^2, x^3)` for D = 1 and degree 3; `(x1, x2, x1^2, x1 x2, x2^2)` for D = 2 and degree 2.
    """
    columns = range(x.shape[-1])
    products = [
        math.prod(x[..., i] for i in chosen)
        for d in range(1, degree + 1)
        for chosen in itertools.combinations_with_replacement(columns, d)
    ]
    return jnp.stack(products, axis=-1)


def sine(x: jax.Array, *, frequency: float = 3.0) -> jax.Array:
    """`(x, sin(frequency x))` per entry, `[B, D] -> [B, 2 D]`."""
    return jnp.concatenate([x, jnp.sin(frequency * x)], axis=-1)

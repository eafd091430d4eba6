"""The switch of the formulations that are quicker than XLA's own operators on a CPU.

With `fast_paths` on, as it is, convolutions, pooling and local response normalisation of a program
that is traced for the CPU are written as products and elementwise work where that is quicker (the
table in `fast_convolution.py`, `fast_pooling.py`); on other backends XLA's operators run untouched.
Results differ by rounding alone. `with fast_paths(False):` traces without them, and
`fast_paths.set_global(False)` turns them off for a program; what is compiled already is compiled
anew, since the value is part of its key.
"""

import jax
import jax.numpy as jnp

fast_paths = jax.make_user_context(True)


def is_fast(*arrays: jax.Array) -> bool:
    """Whether a function of these arrays, traced now, may take its fast path."""
    return (
        fast_paths.value
        and jax.default_backend() == "cpu"
        and all(jnp.issubdtype(array.dtype, jnp.floating) for array in arrays)
    )

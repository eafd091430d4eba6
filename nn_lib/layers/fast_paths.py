"""The switch of the formulations that are quicker than XLA's own operators on a CPU.

With `fast_paths` on, as it is, convolution, pooling, batch and local response normalisation and the
tanh of written-out scans are traced for a CPU in forms that are quicker there; on other backends
XLA's operators run untouched. Results differ by rounding alone, but that local response
normalisation hands a NaN on to all channels of its pixel. `with fast_paths(False):` traces without
them, and `fast_paths.set_global(False)` turns them off for a program; what is compiled already is
compiled anew, since the value is part of its key. Arrays whose types say how they are sharded
(meshes of explicit axes) are left to XLA's operators too.
"""

import jax
import jax.numpy as jnp

fast_paths = jax.make_user_context(True)


def is_fast(x: jax.Array) -> bool:
    """Whether a function of x, traced now, may take its fast path."""
    on_cpu = jax.default_backend() == "cpu"
    explicit = jax.sharding.AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
    floating = bool(jnp.issubdtype(x.dtype, jnp.floating))
    return fast_paths.value and on_cpu and floating and not explicit


def is_in_automatic_mesh() -> bool:
    """Whether XLA alone decides how arrays are sharded, not a `shard_map` or their types."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)

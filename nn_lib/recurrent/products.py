"""What the written-out scans share: products over all steps at once, and a quick tanh."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from nn_lib.layers.activations import at_least_float32
from nn_lib.layers.fast_paths import is_fast

# tanh x = x p(x^2) / q(x^2) for |x| below the bound, beyond which float32 knows only +-1: the
# rational function of Eigen's vectorised tanh.
_BOUND = 7.90531110763549805
_P = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
    *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x [T, B, F] @ kernel [F, G]`, whose gradient sums steps and batch in the order of memory.

    The order that autodiff would choose makes XLA copy the cotangents, which are large.
    """
    return x @ kernel


def _product_gradient(saved, d):
    x, kernel = saved
    return lax.dot_general(d, kernel, (((2,), (1,)), ((), ()))), weight_gradient(x, d)


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_gradient)


def weight_gradient(x: jax.Array, d: jax.Array) -> jax.Array:
    """`sum_{t, b} x_{tb} d_{tb}^T` of `[T, B, F]` and `[T, B, G]`, `[F, G]`."""
    return lax.dot_general(x, d, (((0, 1), (0, 1)), ((), ())))


def saved(a: jax.Array, t: jax.Array) -> jax.Array:
    """What a step keeps of `t = tanh(scale a)`, a's first columns, for `restored`: t, or such an a.

    From an a of half precision t follows in float32, at half of its size; t in half precision would
    not know a gate near one from one.
    """
    return t if t.dtype == a.dtype else a[..., : t.shape[-1]]


def restored(kept: jax.Array, scale) -> jax.Array:
    """`t = tanh(scale a)`, in float32 at least, of what `saved` kept."""
    wide = at_least_float32(kept)
    return kept if wide.dtype == kept.dtype else tanh(wide * scale)


@jax.custom_jvp
def tanh(x: jax.Array) -> jax.Array:
    """tanh; of float32 on a CPU a rational function that is within 4e-7 of it, and quicker."""
    if x.dtype != jnp.float32 or not is_fast(x):
        return jnp.tanh(x)
    x = jnp.clip(x, -_BOUND, _BOUND)
    return x * _polynomial(_P, x * x) / _polynomial(_Q, x * x)


def _polynomial(coefficients, s):
    return functools.reduce(lambda value, c: value * s + c, coefficients)


@tanh.defjvp
def _tanh_jvp(primals, tangents):
    t = tanh(*primals)
    return t, (1 - t * t) * tangents[0]

"""The quick tanh and the products over time, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.layers.fast_paths import fast_paths
from nn_lib.recurrent.products import product, tanh, weight_gradient
from tests.conftest import F

POINTS = np.concatenate(
    [np.linspace(-12, 12, 200_001), [0.0, 1e-30, -1e-20, 1e-7, -3e-4, np.inf, -np.inf]]
).astype(np.float32)


def test_the_quick_tanh_is_tanh_to_float32_and_never_beyond_one():
    found = np.asarray(jax.jit(tanh)(POINTS), np.float64)
    exact = np.tanh(POINTS.astype(np.float64))
    assert np.abs(found - exact).max() < 4e-7
    small = np.abs(POINTS) < 1
    np.testing.assert_allclose(found[small], exact[small], rtol=4e-7, atol=0)
    assert np.abs(found).max() <= 1
    assert np.isnan(tanh(jnp.float32(np.nan)))


def test_its_derivatives_in_both_modes_are_those_of_tanh():
    x = jnp.linspace(-9, 9, 1001)
    slope = 1 - np.tanh(np.asarray(x, np.float64)) ** 2
    np.testing.assert_allclose(jax.vmap(jax.grad(tanh))(x), slope, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(tanh, (x,), (jnp.ones_like(x),))[1], slope, atol=1e-6)
    curve = -2 * np.tanh(np.asarray(x, np.float64)) * slope
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(tanh)))(x), curve, atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_of_other_dtypes_it_is_the_exact_one(x64, dtype):
    x = jnp.asarray(POINTS[::100], dtype)
    np.testing.assert_array_equal(tanh(x), jnp.tanh(x))


def test_the_switch_turns_it_off():
    x = POINTS[::100]
    assert (tanh(x) != jnp.tanh(x)).any()
    with fast_paths(False):
        np.testing.assert_array_equal(tanh(x), jnp.tanh(x))


def test_a_product_over_time_and_its_gradients_are_those_of_a_loop(x64):
    x, kernel, d = F((4, 3, 5), 0.0), F((5, 2), 1.0), F((4, 3, 2), 2.0)
    y, back = jax.vjp(product, x, kernel)
    np.testing.assert_allclose(y, np.stack([[row @ kernel for row in step] for step in x]))
    dx, d_kernel = back(d)
    np.testing.assert_allclose(dx, np.stack([[row @ kernel.T for row in step] for step in d]))
    summed = sum(np.outer(x[t, b], d[t, b]) for t in range(4) for b in range(3))
    np.testing.assert_allclose(d_kernel, summed, atol=1e-14)
    np.testing.assert_allclose(weight_gradient(x, d), summed, atol=1e-14)

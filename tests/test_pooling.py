"""Pooling against the lectures' figure, loops and torch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn_lib.layers import (
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
    max_pool_with_switches,
    sum_pool,
    unpool,
)
from tests.conftest import swapped

FIGURE = np.array([[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])


def image(array):
    return jnp.asarray(array)[None, ..., None]


def test_pooling_is_the_figure():
    x = image(FIGURE)
    np.testing.assert_allclose(max_pool(x, (2, 2))[0, ..., 0], [[6, 8], [3, 4]])
    np.testing.assert_allclose(avg_pool(x, (2, 2))[0, ..., 0], [[3.25, 5.25], [2, 2]])
    assert float(global_max_pool(x)[0, 0]) == 8
    assert float(global_avg_pool(x)[0, 0]) == pytest.approx(FIGURE.mean())


def test_padding_does_not_enter_the_average_unless_asked():
    ones = jnp.ones((1, 3, 3, 1))
    np.testing.assert_allclose(avg_pool(ones, (3, 3), (1, 1), "SAME"), ones)
    counted = avg_pool(ones, (3, 3), (1, 1), "SAME", count_include_pad=True)
    np.testing.assert_allclose(counted[0, 0, 0, 0], 4 / 9)


@st.composite
def poolings(draw):
    spatial = draw(st.integers(1, 3))
    window = draw(st.tuples(*[st.integers(1, 4)] * spatial))
    padding = draw(st.integers(0, min(window) // 2))
    size = draw(st.tuples(*[st.integers(max(window), 8)] * spatial))
    strides = draw(st.tuples(*[st.integers(1, 4)] * spatial))
    return size, window, strides, padding, draw(st.booleans()), draw(st.booleans())


@pytest.mark.slow
@pytest.mark.parity
@settings(deadline=None, max_examples=15)
@given(poolings())
def test_any_pooling_and_its_gradient_equal_torch(torch, case):
    size, window, strides, padding, ceil_mode, counted = case
    functional, spatial = torch.nn.functional, len(size)
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    shape = {"window": window, "strides": strides, "padding": padding, "ceil_mode": ceil_mode}
    average = getattr(functional, f"avg_pool{spatial}d")
    largest = getattr(functional, f"max_pool{spatial}d")
    theirs = {
        "max": lambda x: largest(x, window, strides, padding, ceil_mode=ceil_mode),
        "avg": lambda x: average(x, window, strides, padding, ceil_mode, counted),
    }
    ours = {
        "max": lambda x: max_pool(x, **shape),
        "avg": lambda x: avg_pool(x, **shape, count_include_pad=counted),
    }
    for name in ours:
        with jax.enable_x64(True):
            found = ours[name](x)
            dx = jax.grad(lambda x, f=ours[name]: jnp.sin(f(x)).sum())(x)
        tx = torch.tensor(swapped(x), requires_grad=True)
        out = theirs[name](tx)
        torch.sin(out).sum().backward()
        np.testing.assert_allclose(swapped(found), out.detach().numpy(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(swapped(dx), tx.grad.numpy(), rtol=1e-10, atol=1e-12)
    with jax.enable_x64(True):
        values, switches = max_pool_with_switches(x, **shape)
        np.testing.assert_array_equal(values, max_pool(x, **shape))
        restored = unpool(values, switches, size)
    out, places = largest(tx.detach(), window, strides, padding, 1, ceil_mode, True)
    np.testing.assert_array_equal(swapped(switches), places.numpy())
    flat = torch.zeros(2, 3, int(np.prod(size)), dtype=torch.float64)
    flat.scatter_(2, places.flatten(2), out.flatten(2))
    np.testing.assert_array_equal(swapped(restored), flat.reshape(2, 3, *size).numpy())


@settings(deadline=None, max_examples=8)
@given(poolings())
def test_pooling_is_a_loop_over_its_windows(case):
    size, window, strides, padding, ceil_mode, counted = case
    x = np.random.default_rng(0).normal(size=(1, *size, 2))
    rows = []
    for n, k, s in zip(size, window, strides):
        starts = list(range(-padding, n + padding - k + 1, s))
        if ceil_mode and starts[-1] + k < n + padding and starts[-1] + s < n:
            starts.append(starts[-1] + s)
        rows.append(starts)
    expected = {"max": [], "sum": [], "avg": []}
    for corner in itertools.product(*rows):
        cut = tuple(slice(max(a, 0), min(a + k, n)) for a, k, n in zip(corner, window, size))
        inside = x[(0, *cut)].reshape(-1, 2)
        whole = np.prod([min(a + k, n + padding) - a for a, k, n in zip(corner, window, size)])
        expected["max"].append(inside.max(0))
        expected["sum"].append(inside.sum(0))
        expected["avg"].append(inside.sum(0) / (whole if counted else len(inside)))
    shape = (1, *(len(starts) for starts in rows), 2)
    arguments = {"window": window, "strides": strides, "padding": padding, "ceil_mode": ceil_mode}

    @jax.jit
    def found(x):
        return {
            "max": max_pool(x, **arguments),
            "sum": sum_pool(x, **arguments),
            "avg": avg_pool(x, **arguments, count_include_pad=counted),
        }

    for name, value in found(x).items():
        np.testing.assert_allclose(
            value, np.reshape(expected[name], shape), rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_sums_are_averages_times_the_window():
    x = image(FIGURE)
    np.testing.assert_allclose(sum_pool(x, 2)[0, ..., 0], [[13, 21], [8, 8]])
    np.testing.assert_allclose(sum_pool(x, 2), 4 * avg_pool(x, 2))


def test_unpooling_puts_maxima_back_where_they_were():
    pooled, switches = max_pool_with_switches(image(FIGURE), 2)
    assert switches[0, ..., 0].tolist() == [[5, 7], [8, 15]]
    back = unpool(pooled, switches, (4, 4))[0, ..., 0]
    expected = np.zeros((4, 4))
    expected[1, 1], expected[1, 3], expected[2, 0], expected[3, 3] = 6, 8, 3, 4
    np.testing.assert_array_equal(back, expected)


def test_adaptive_averages_cover_the_input_evenly():
    x = jnp.arange(14.0).reshape(1, 14, 1)
    windows = [(0, 4), (3, 7), (7, 11), (10, 14)]
    expected = [np.mean(np.arange(a, b)) for a, b in windows]
    np.testing.assert_allclose(adaptive_avg_pool(x, 4).ravel(), expected)
    np.testing.assert_allclose(adaptive_avg_pool(x, 7).ravel(), np.arange(14).reshape(7, 2).mean(1))


def test_sums_over_many_pixels_are_taken_in_float32():
    ones = jnp.ones((1, 50, 50, 1), jnp.bfloat16)
    assert float(avg_pool(ones, 50).item()) == 1 and avg_pool(ones, 50).dtype == jnp.bfloat16
    assert float(sum_pool(ones[:, :32, :32], 32).item()) == 1024

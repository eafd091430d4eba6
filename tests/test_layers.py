"""Convolution and pooling against the lectures' numbers, SciPy and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from nn_lib.checks import UserError
from nn_lib.layers import (
    Conv,
    avg_pool,
    convolve,
    global_avg_pool,
    global_max_pool,
    lenet_squash,
    max_pool,
    maxout,
    scaled_tanh,
)

GRID = np.arange(1.0, 10.0).reshape(3, 3)
SOBEL = np.array([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])
FIGURE = np.array([[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]])


def image(array):
    return jnp.asarray(array)[None, ..., None]


def kernel(array):
    return jnp.asarray(array)[..., None, None]


def test_the_sobel_example_flipped_and_not():
    true = convolve(image(GRID), kernel(SOBEL), padding="SAME", flip=True)[0, ..., 0]
    np.testing.assert_allclose(true, [[-13, -20, -17], [-18, -24, -18], [13, 20, 17]])
    cross = convolve(image(GRID), kernel(SOBEL), padding=1)[0, ..., 0]
    np.testing.assert_allclose(cross, -true)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(4, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2)
)
def test_one_dimension_equals_a_loop(size, window, stride, padding, dilation):
    rng = np.random.default_rng(size * 100 + window)
    x, w = rng.normal(size=(2, size, 3)), rng.normal(size=(window, 3, 2))
    padded = np.pad(x, ((0, 0), (padding, padding), (0, 0)))
    out = (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1
    if out < 1:
        return
    expected = np.zeros((2, out, 2))
    for i in range(out):
        for k in range(window):
            expected[:, i] += padded[:, i * stride + k * dilation] @ w[k]
    found = convolve(x, w, strides=stride, padding=padding, dilation=dilation)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_two_dimensions_equal_scipy():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 7)), rng.normal(size=(3, 2))
    found = convolve(image(x), kernel(w), flip=True)[0, ..., 0]
    np.testing.assert_allclose(found, signal.convolve2d(x, w, "valid"), rtol=1e-4, atol=1e-5)


def test_groups_are_separate_convolutions():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 5, 5, 4)), rng.normal(size=(3, 3, 2, 6))
    found = convolve(x, w, groups=2)
    halves = [convolve(x[..., :2], w[..., :3]), convolve(x[..., 2:], w[..., 3:])]
    np.testing.assert_allclose(found, jnp.concatenate(halves, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "window", "features", "out", "parameters"),
    [
        ((7, 7, 3), (3, 3), 16, (5, 5, 16), 448),
        ((5, 5, 16), (3, 3), 32, (3, 3, 32), 4640),
        ((7, 7, 14, 1), (3, 3, 3), 16, (5, 5, 12, 16), 448),
        ((5, 5, 12, 16), (3, 3, 3), 32, (3, 3, 10, 32), 13856),
        ((7, 1), (3,), 16, (5, 16), 64),
        ((5, 16), (3,), 32, (3, 32), 1568),
        ((32, 32, 3), (5, 5), 6, (28, 28, 6), 456),
    ],
)
def test_shapes_and_counts_of_the_lectures(shape, window, features, out, parameters):
    layer = Conv(features, window)
    found, variables = layer.init_with_output(jax.random.key(0), jnp.zeros((2, *shape)))
    assert found.shape == (2, *out)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters


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


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        ((5, 5, 3), (3, 3, 3, 4), r"got \(5, 5, 3\); is the batch or the channel axis missing"),
        ((2, 3, 8, 8), (3, 3, 3, 4), r"expects 3 input channels in the last axis.*channels first"),
    ],
)
def test_inputs_that_do_not_fit_are_named(x, w, message):
    with pytest.raises(UserError, match=message):
        convolve(jnp.zeros(x), jnp.zeros(w))


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(
        UserError, match="cannot divide 3 input and 4 output channels into 2 groups"
    ):
        Conv(4, (3, 3), groups=2).init(jax.random.key(0), jnp.zeros((1, 5, 5, 3)))


@pytest.mark.parity
def test_convolution_and_its_gradients_equal_torch(x64, torch):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 9, 8, 4)), rng.normal(size=(3, 3, 2, 6))

    def ours(x, w):
        return jnp.sin(convolve(x, w, strides=2, padding=1, groups=2)).sum()

    dx, dw = jax.grad(ours, (0, 1))(x, w)
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    tw = torch.tensor(w.transpose(3, 2, 0, 1), requires_grad=True)
    torch.sin(torch.nn.functional.conv2d(tx, tw, stride=2, padding=1, groups=2)).sum().backward()
    np.testing.assert_allclose(dx, tx.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dw, tw.grad.numpy().transpose(2, 3, 1, 0), rtol=1e-10, atol=1e-12)


def test_activations_have_their_worked_values(x64):
    assert float(lenet_squash(1.0)) == pytest.approx(0.9999972559, abs=1e-10)
    assert float(lenet_squash(-1.0)) == -float(lenet_squash(1.0))
    assert float(jax.grad(lenet_squash)(0.0)) == pytest.approx(1.1439333, abs=1e-7)
    assert float(scaled_tanh(1.0)) == pytest.approx(0.7615941560, abs=1e-10)
    x = jnp.linspace(-3, 3, 13)
    for scale in (0.5, 1.0, 2.0):  # sigma_s(2 x), not sigma_s(x) as is printed
        both = scaled_tanh(x, scale=scale), 2 * jax.nn.sigmoid(scale * 2 * x) - 1
        np.testing.assert_allclose(*both, atol=1e-12)
    assert 2 * float(jax.nn.sigmoid(1.0)) - 1 == pytest.approx(0.4621171573, abs=1e-10)
    assert float(jax.nn.softplus(0.0)) == pytest.approx(np.log(2))
    assert float(jax.nn.elu(-1.0)) == pytest.approx(-0.6321205588, abs=1e-10)
    assert float(jax.nn.selu(-1.0)) == pytest.approx(-1.1113307378, abs=1e-10)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.nn.softplus))(x), jax.nn.sigmoid(x))
    assert jax.grad(jax.nn.relu)(0.0) == 0


def test_maxout_is_the_largest_of_its_pieces():
    x = jnp.array([[1.0, 5.0, -2.0, -7.0, 3.0, 3.5]])
    assert maxout(x, pieces=2).tolist() == [[5.0, -2.0, 3.5]]
    assert maxout(x, pieces=3).tolist() == [[5.0, 3.5]]

"""Layers other than convolution and pooling, and what every layer refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    DropPath,
    GroupNorm,
    Highway,
    InstanceNorm,
    LayerNorm,
    LocallyConnected,
    PartialConv,
    ResidualBlock,
    SpatialDropout,
    convolve,
    convolve_transposed,
    lenet_squash,
    local_response_norm,
    max_pool,
    maxout,
    scaled_tanh,
    unpool,
)
from tests.conftest import F


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


def test_response_norm_has_its_worked_vector(x64):
    a = F((7, 1), 1, 10.0).reshape(1, 7)
    expected = [
        *(4.97444084, 5.36397583, 0.82964253, -4.45961291),
        *(-5.65894491, -1.64904974, 3.88565846),
    ]
    np.testing.assert_allclose(local_response_norm(a)[0], expected, atol=1e-8)


def test_the_highway_has_its_worked_vector(x64):
    x = F((3,), 41)[None]
    params = {
        "gate": {"kernel": F((3, 3), 1, 0.5).T, "bias": -np.ones(3)},
        "transform": {"kernel": F((3, 3), 15, 0.5).T, "bias": np.zeros(3)},
    }
    y = Highway().apply({"params": params}, x)[0]
    np.testing.assert_allclose(y, [-0.05200184, -0.69526849, -0.65637802], atol=1e-8)


@pytest.mark.parametrize(
    ("layer", "shape"), [(SpatialDropout, (4, 1, 1, 6)), (DropPath, (4, 1, 1, 1))]
)
def test_what_is_dropped_is_dropped_whole_and_the_rest_scaled(layer, shape):
    x = jnp.ones((4, 5, 5, 6))
    y = layer(0.5).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(y)) == {0.0, 2.0}
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[tuple(slice(n) for n in shape)], y.shape))
    np.testing.assert_array_equal(layer(0.5).apply({}, x), x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: convolve(x, jnp.ones((2, 2, 3, 1)), padding="SAME_SYMMETRIC"), "even window"),
        (lambda x: convolve(x, jnp.ones((3, 3, 3, 1)), padding="CIRCULAR"), "are padding_mode"),
        (lambda x: convolve(x, jnp.ones((3, 3, 3, 1)), padding=[(1, 1)]), "one .low, high. pair"),
        (lambda x: convolve(x, jnp.ones((9, 9, 3, 1))), "ran out of pixels"),
        (lambda x: convolve(x, jnp.ones((3, 3, 3, 1)), strides=0), "strides is a positive number"),
        (lambda x: convolve(x, jnp.ones((3, 3, 3, 1)), padding_mode="edge"), "'edge' is unknown"),
        (
            lambda x: convolve(x, jnp.ones((9, 9, 3, 1)), padding=8, padding_mode="reflect"),
            "cannot reflect",
        ),
        (lambda x: Conv(2, 3).init(jax.random.key(0), x), r"expects a window .* got 3"),
        (lambda x: Conv(2, (3, 3), groups=0).init(jax.random.key(0), x), "above 0, got 2 and 0"),
        (lambda x: convolve(x, jnp.ones((3, 3, 3, 1)), strides=1.5), "got 1.5"),
        (
            lambda x: convolve_transposed(
                x, jnp.ones((3, 3, 1, 3)), padding="SAME", output_padding=1
            ),
            "output_padding has no place",
        ),
        (
            lambda x: LocallyConnected(2, (9, 9)).init(jax.random.key(0), x),
            "LocallyConnected ran out of pixels",
        ),
        (
            lambda x: Conv(2, (3, 3)).apply({"params": {"kernel": jnp.ones((3, 3, 1, 2))}}, x),
            "was initialised for 1 channels .* are the channels first",
        ),
        (
            lambda x: ResidualBlock(2, shortcut="b").init(jax.random.key(0), x),
            "shortcut 'b' is unknown",
        ),
        (
            lambda x: ResidualBlock(2, shortcut="A").init(jax.random.key(0), x),
            "cannot make 2 of 3; use 'B'",
        ),
        (lambda x: unpool(x, x.astype(int) + 4, (2, 2)), r"point outside of a size of \(2, 2\)"),
        (lambda x: maxout(x, pieces=2), "2 pieces do not divide 3 channels"),
        (lambda x: max_pool(x, 3, padding=3), "leaves windows of 3 without input"),
        (lambda x: max_pool(x, 9), "ran out of pixels"),
        (lambda x: max_pool(x, (2, 2, 2)), "one for each of the 2 spatial dimensions"),
        (lambda x: convolve_transposed(x, jnp.ones((3, 3, 1, 2))), "spatial axes, 2"),
        (
            lambda x: convolve_transposed(x, jnp.ones((3, 3, 1, 3)), output_padding=1),
            "less than the stride",
        ),
        (
            lambda x: Conv(2, (3, 3)).init(jax.random.key(0), x.astype(jnp.uint8)),
            "Conv expects floating inputs, got uint8",
        ),
        (
            lambda x: PartialConv(((0, 3),), (3, 3)).init(jax.random.key(0), x),
            "names map 3, and the inputs",
        ),
    ],
)
def test_a_mistake_names_what_was_expected_and_the_fix(call, message):
    with pytest.raises(UserError, match=message):
        call(jnp.ones((2, 8, 8, 3)))


@pytest.mark.parametrize(
    ("layer", "axes", "shape"),
    [
        (BatchNorm(use_running_average=False), (0, 1, 2), (5, 4, 3, 6)),
        (LayerNorm(), (3,), (5, 4, 3, 6)),
        (InstanceNorm(), (1, 2), (5, 4, 3, 6)),
        (GroupNorm(num_groups=3), (1, 2, 4), (5, 4, 3, 3, 2)),
    ],
)
def test_each_norm_takes_its_statistics_over_its_own_axes(x64, layer, axes, shape):
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(5, 4, 3, 6))
    layer = layer.clone(param_dtype=jnp.float64, epsilon=1e-5)
    y, _ = layer.init_with_output(jax.random.key(0), x)
    cut = x.reshape(shape)
    mean, variance = cut.mean(axes, keepdims=True), cut.var(axes, keepdims=True)
    expected = ((cut - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-9)


def test_every_layer_begins_with_outputs_of_the_size_of_its_inputs():
    x = jax.random.normal(jax.random.key(0), (8, 20, 20, 16))
    layers = [
        Conv(8, (3, 3)),
        Conv(8, (3, 3), groups=4),
        LocallyConnected(8, (3, 3)),
        ConvTranspose(8, (3, 3)),
        ConvTranspose(8, (3, 3), groups=4),
    ]
    for layer in layers:
        y, _ = jax.jit(layer.init_with_output)(jax.random.key(1), x)
        assert 0.85 < float(y[:, 3:-3, 3:-3].std()) < 1.15, layer

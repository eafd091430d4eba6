"""Convolution and its adjoint against the lectures' numbers, SciPy, loops and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import signal

from nn_lib.checks import UserError
from nn_lib.layers import (
    Conv,
    LocallyConnected,
    SeparableConv,
    convolve,
    convolve_transposed,
    kernels,
)
from tests.conftest import swapped

GRID = np.arange(1.0, 10.0).reshape(3, 3)

SOBEL = np.array([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])


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


@pytest.mark.slow
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


def test_the_full_sobel_example():
    full = convolve(image(GRID), kernel(SOBEL), padding=2, flip=True)[0, ..., 0]
    expected = [
        [-1, -4, -8, -8, -3],
        [-4, -13, -20, -17, -6],
        [-6, -18, -24, -18, -6],
        [4, 13, 20, 17, 6],
        [7, 22, 32, 26, 9],
    ]
    np.testing.assert_allclose(full, expected)


def test_classic_kernels_do_what_their_names_say():
    assert kernels.SHARPEN[1, 1] == pytest.approx(
        17 / 9
    ) and kernels.SHARPEN.sum() == pytest.approx(1)
    seven = kernels.filter_images(jnp.full((1, 4, 4, 2), 7.0), kernels.SHARPEN)[0, ..., 1]
    np.testing.assert_allclose(seven[:2, :2], [[98 / 9, 28 / 3], [28 / 3, 7]], rtol=1e-6)
    counting = jnp.arange(1.0, 17).reshape(1, 4, 4, 1)
    shifted = kernels.filter_images(counting, kernels.SHIFT)[0, ..., 0]
    np.testing.assert_allclose(shifted[:2], [[2, 3, 4, 0], [6, 7, 8, 0]])
    other = kernels.filter_images(counting, kernels.SHIFT, flip=False)[0, ..., 0]
    np.testing.assert_allclose(other[:2], [[0, 1, 2, 3], [0, 5, 6, 7]])
    np.testing.assert_allclose(kernels.filter_images(counting, kernels.IDENTITY), counting)
    for name in ("sobel", "sobel_right", "laplacian"):
        flat = kernels.filter_images(jnp.ones((1, 5, 5, 1)), kernels.KERNELS[name])
        np.testing.assert_allclose(flat[0, 1:-1, 1:-1], 0, atol=1e-6)
    blurred = kernels.filter_images(counting, kernels.BLUR)[0, 1, 1, 0]
    assert float(blurred) == pytest.approx(np.mean(np.asarray(counting)[0, :3, :3]))


# Arguments of convolve in one, two and three dimensions; explicit pads are torch's too.
@st.composite
def convolutions(draw):
    spatial = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    each = st.integers(1, 3)
    window = draw(st.tuples(*[each] * spatial))
    dilation = draw(st.tuples(*[st.integers(1, 2)] * spatial))
    padding = draw(st.integers(0, 2))
    least = max(d * (k - 1) + 1 for d, k in zip(dilation, window))
    size = draw(st.tuples(*[st.integers(max(1, least - 2 * padding), 7)] * spatial))
    strides = draw(st.tuples(*[each] * spatial))
    channels = (draw(st.integers(1, 2)) * groups, draw(st.integers(1, 2)) * groups)
    return size, window, strides, dilation, padding, groups, channels


def arrays_of(case):
    size, window, *_, groups, (inputs, outputs) = case
    rng = np.random.default_rng(sum(size) * 31 + sum(window))
    x = rng.normal(size=(2, *size, inputs))
    return x, rng.normal(size=(*window, inputs // groups, outputs)), rng


def arguments_of(case):
    _, _, strides, dilation, padding, groups, _ = case
    return {"strides": strides, "dilation": dilation, "padding": padding, "groups": groups}


@settings(deadline=None, max_examples=8)
@given(convolutions())
def test_the_transposed_convolution_is_the_adjoint(case):
    with jax.enable_x64(True):
        x, w, rng = arrays_of(case)
        y = convolve(x, w, **arguments_of(case))
        size = [
            (n - 1) * s - 2 * case[4] + d * (k - 1) + 1
            for n, s, d, k in zip(y.shape[1:], case[2], case[3], case[1])
        ]
        assume(min(size) > 0)
        z = rng.normal(size=y.shape)
        back = convolve_transposed(z, w, **arguments_of(case))
        assert back.shape == (2, *size, x.shape[-1])
        cut = x[(slice(None), *(slice(n) for n in size))]  # less what no window reaches
        left = (convolve(cut, w, **arguments_of(case)) * z).sum()
        np.testing.assert_allclose(left, (cut * back).sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parity
@settings(deadline=None, max_examples=60)
@given(convolutions(), st.sampled_from(["zeros", "reflect", "circular"]), st.booleans())
def test_any_convolution_and_its_gradients_equal_torch(torch, case, mode, transposed):
    size, _, strides, dilation, padding, groups, _ = case
    spatial = len(size)
    if mode != "zeros" and (transposed or padding >= min(size)):
        mode = "zeros"
    functional = torch.nn.functional
    with jax.enable_x64(True):
        x, w, _ = arrays_of(case)
        layer = convolve_transposed if transposed else convolve
        if transposed:  # from the outputs' channels to the inputs'
            rng = np.random.default_rng(1)
            x = rng.normal(size=(*x.shape[:-1], w.shape[-1]))
        arguments = arguments_of(case)
        try:
            ours = layer(x, w, **arguments, padding_mode=mode)
        except UserError:
            return  # nothing is left of so few pixels
        dx, dw = jax.grad(
            lambda x, w: jnp.sin(layer(x, w, **arguments, padding_mode=mode)).sum(), (0, 1)
        )(x, w)
    tx = torch.tensor(swapped(x), requires_grad=True)
    tw = torch.tensor(np.moveaxis(w, (-1, -2), (0, 1)).copy(), requires_grad=True)
    if transposed:
        call = getattr(functional, f"conv_transpose{spatial}d")
        out = call(tx, tw, None, strides, padding, 0, groups, dilation)
    else:
        call = getattr(functional, f"conv{spatial}d")
        torch_mode = {"zeros": "constant"}.get(mode, mode)
        padded = functional.pad(tx, (padding, padding) * spatial, torch_mode)
        out = call(padded, tw, None, strides, 0, dilation, groups)
    torch.sin(out).sum().backward()
    close = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(swapped(ours), out.detach().numpy(), **close)
    np.testing.assert_allclose(swapped(dx), tx.grad.numpy(), **close)
    np.testing.assert_allclose(np.moveaxis(dw, (-1, -2), (0, 1)), tw.grad.numpy(), **close)


def test_a_locally_connected_layer_is_a_convolution_where_its_kernels_agree():
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    layer = LocallyConnected(4, (3, 2), strides=2, padding=1)
    shared = Conv(4, (3, 2), strides=2, padding=1)
    variables = jax.jit(shared.init)(jax.random.key(1), x)["params"]
    own = jax.eval_shape(layer.init, jax.random.key(1), x)["params"]["kernel"].shape
    assert own == (3, 3, 18, 4)
    # Patches come channel by channel, each with its window.
    flat = jnp.moveaxis(variables["kernel"], 2, 0).reshape(18, 4)
    params = {"kernel": jnp.broadcast_to(flat, own), "bias": jnp.zeros((3, 3, 4))}
    found = layer.apply({"params": params}, x)
    np.testing.assert_allclose(found, shared.apply({"params": variables}, x), rtol=1e-4, atol=1e-5)


def test_a_separable_convolution_is_a_product_of_two():
    x = jax.random.normal(jax.random.key(0), (2, 7, 3))
    layer = SeparableConv(4, (3,), use_bias=False)
    params = jax.jit(layer.init)(jax.random.key(1), x)["params"]
    depth = np.asarray(params["depthwise"]["conv"]["kernel"])  # [3, 1, 3]
    point = np.asarray(params["pointwise"]["kernel"])[0]
    full = np.einsum("kc,co->kco", depth[:, 0], point)
    np.testing.assert_allclose(
        layer.apply({"params": params}, x), convolve(x, full), rtol=1e-4, atol=1e-5
    )


@settings(deadline=None, max_examples=8)
@given(convolutions())
def test_true_convolution_is_scipys_strided_and_dilated(case):
    size, window, strides, dilation, padding, _, _ = case
    with jax.enable_x64(True):
        rng = np.random.default_rng(sum(size))
        x, w = rng.normal(size=size), rng.normal(size=window)
        found = convolve(
            *(x[None, ..., None], w[..., None, None]),
            **{"strides": strides, "dilation": dilation, "padding": padding, "flip": True},
        )
        spread = np.zeros([d * (k - 1) + 1 for d, k in zip(dilation, window)])
        spread[tuple(slice(None, None, d) for d in dilation)] = w
        full = signal.convolve(np.pad(x, padding), spread, "valid", method="direct")
        expected = full[tuple(slice(None, None, s) for s in strides)]
        np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [6, 8])
def test_the_one_dimensional_settings_of_the_lecture(n):
    x = jnp.ones((1, n, 1))
    sizes = [
        convolve(x, jnp.ones((2, 1, features)), strides=strides, padding=padding).shape[1:]
        for features, strides, padding in ((1, 2, 0), (1, 1, 0), (2, 2, 1))
    ]
    assert sizes == [(n // 2, 1), (n - 1, 1), (n // 2 + 1, 2)]
    assert convolve(jnp.ones((1, 8, 1)), jnp.ones((3, 1, 1))).shape == (1, 6, 1)


def test_full_local_and_shared_connections_of_a_million_units():
    image = jax.ShapeDtypeStruct((1, 1000, 1000, 1), jnp.float32)
    window = {"window": (10, 10), "padding": "SAME", "use_bias": False}
    count = {}
    for layer in (LocallyConnected(1, **window), Conv(1, **window)):
        shapes = jax.eval_shape(layer.init, jax.random.key(0), image)
        count[type(layer)] = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert count == {LocallyConnected: 10**8, Conv: 100}

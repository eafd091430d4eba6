"""Gradients written out by hand, in chunks, under flags: against autodiff of the generic scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn_lib.recurrent import (
    RNN,
    LSTMCell,
)
from tests.cells import CELLS, every_cell

WRITTEN_OUT = ("vanilla", "lstm", "gru", "gru_reset_after")
FLAGS = {
    "plain": {},
    "reset": {"reset": 0.3},
    "mask": {"mask": 0.6},
    "mask_reset": {"mask": 0.6, "reset": 0.3},
}


def case(name, flags, features=3, **fields):
    """A layer, its variables, inputs, an initial carry, and a loss under random flags."""
    keys = iter(jax.random.split(jax.random.key(0), 12))
    layer = RNN(CELLS[name](4), **fields)
    inputs = jax.random.normal(next(keys), (3, 7, features))
    carry = jax.tree.map(
        lambda leaf: jax.random.normal(next(keys), leaf.shape), layer.initialize_carry(3)
    )
    flags = {k: jax.random.bernoulli(next(keys), p, (3, 7)) for k, p in FLAGS[flags].items()}
    if "mask" in flags:
        flags["mask"] = flags["mask"].at[1].set(False)  # a row that is masked throughout
    variables = jax.jit(layer.init)(next(keys), inputs)
    weights = jax.random.normal(next(keys), (3, 7, 4))

    def loss(layer, variables, inputs, carry):
        carry, outputs = layer.apply(variables, inputs, initial_carry=carry, **flags)
        ends = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(carry)])
        return (outputs * weights).sum() + (ends * jnp.sin(jnp.arange(ends.size))).sum()

    return layer, variables, inputs, carry, loss


def gradients(loss, layer, arguments):
    """The loss, and its gradient of the variables, the inputs and the initial carry."""
    return jax.jit(jax.value_and_grad(functools.partial(loss, layer), (0, 1, 2)))(*arguments)


@pytest.mark.parametrize(
    ("flags", "reverse"),
    [
        ("plain", False),
        ("mask_reset", True),
        *(
            pytest.param(flags, reverse, marks=pytest.mark.slow)
            for flags, reverse in (("plain", True), ("reset", False), ("mask", False))
        ),
    ],
)
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_written_out_gradient_is_that_of_the_generic_scan(x64, name, flags, reverse):
    layer, *arguments, loss = case(name, flags, reverse=reverse)
    generic = layer.clone(custom_gradient=False)
    ours = gradients(loss, layer, arguments)
    expected = gradients(loss, generic, arguments)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    jax.tree.map(check, ours, expected)


@pytest.mark.parametrize(
    "name",
    ["vanilla", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lstm", "gru_reset_after"))],
)
def test_a_gradient_has_the_dtype_of_its_parameter(x64, name):
    layer = RNN(CELLS[name](4).clone(param_dtype=jnp.float32))
    x = jnp.ones((2, 3, 4), jnp.float64)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    gradient = jax.grad(lambda v: layer.apply(v, x)[1].sum())(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "name", ["gru", *(pytest.param(n, marks=pytest.mark.slow) for n in WRITTEN_OUT if n != "gru")]
)
def test_second_derivatives_and_forward_mode_go_through_the_switch(x64, name):
    layer, variables, inputs, carry, loss = case(name, "mask_reset")
    generic = layer.clone(custom_gradient=False)
    direction = jax.tree.map(lambda leaf: jnp.ones_like(leaf) / 3, variables)

    def slope(layer, variables):
        gradient = jax.grad(functools.partial(loss, layer))(variables, inputs, carry)
        products = jax.tree.map(lambda a, b: (a * b).sum(), gradient, direction)
        return sum(jax.tree.leaves(products))

    def ahead(variables):
        return loss(generic, variables, inputs, carry)

    double = [
        jax.jit(jax.grad(functools.partial(slope, each)))(variables) for each in (layer, generic)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), double[0], double[1]
    )
    _, forward = jax.jit(functools.partial(jax.jvp, ahead))((variables,), (direction,))
    np.testing.assert_allclose(forward, slope(layer, variables), rtol=1e-10)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_hessian_needs_no_switch(x64, name):
    """Forward over reverse: the written-out gradient is itself made of what has both modes."""
    layer, variables, inputs, carry, loss = case(name, "mask", features=2)
    generic = layer.clone(custom_gradient=False)
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.ones_like(leaf)), (variables, inputs, carry))

    def product(layer):
        gradient = jax.grad(functools.partial(loss, layer), argnums=(0, 1, 2))
        return jax.jvp(gradient, (variables, inputs, carry), direction)[1]

    found, expected = (jax.jit(functools.partial(product, each))() for each in (layer, generic))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), found, expected
    )


@pytest.mark.parametrize("name", every_cell())
def test_a_gradient_is_that_of_finite_differences(x64, name):
    # After a reset NAS is at a kink: relu(a3 . q3) where q3 is the bias, 0.
    layer, *arguments, loss = case(name, "mask" if name == "nas" else "mask_reset", features=4)
    _, gradient = gradients(loss, layer, arguments)
    keys = iter(jax.random.split(jax.random.key(7), 100))
    direction = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), arguments)

    @jax.jit
    def along(distance):
        moved = jax.tree.map(lambda a, d: a + distance * d, arguments, direction)
        return loss(layer, *moved)

    slope = (along(1e-5) - along(-1e-5)) / 2e-5
    products = jax.tree.map(lambda g, d: (g * d).sum(), tuple(gradient), tuple(direction))
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN_OUT)
@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 4),
    dtype=st.sampled_from(["float32", "float64"]),
    reverse=st.booleans(),
    carried=st.booleans(),
    flags=st.sampled_from(sorted(FLAGS)),
    seed=st.integers(0, 1000),
)
def test_written_out_and_generic_agree_whatever_the_case(
    name, sizes, dtype, reverse, carried, flags, seed
):
    with jax.enable_x64(True):
        rng, (B, T, F, H) = np.random.default_rng(seed), sizes
        layer = RNN(CELLS[name](H).clone(param_dtype=jnp.dtype(dtype)), reverse=reverse)
        inputs = jnp.asarray(rng.normal(size=(B, T, F)), dtype)
        variables = jax.jit(layer.init)(jax.random.key(seed), inputs)
        start = layer.initialize_carry(B)
        start = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), start)
        drawn = {k: jnp.asarray(rng.uniform(size=(B, T)) < p) for k, p in FLAGS[flags].items()}
        weights = jnp.asarray(rng.normal(size=(B, T, H)), dtype)

        def loss(layer, variables, inputs, start):
            carry = start if carried else None
            last, outputs = layer.apply(variables, inputs, initial_carry=carry, **drawn)
            return (outputs * weights).sum() + sum(leaf.sum() for leaf in jax.tree.leaves(last))

        arguments = (variables, inputs, start)
        ours = gradients(loss, layer, arguments)
        expected = gradients(loss, layer.clone(custom_gradient=False), arguments)
        rtol, atol = (1e-10, 1e-12) if dtype == "float64" else (1e-4, 1e-4)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, expected
        )


@pytest.mark.parametrize(("name", "chunk"), [("lstm", 3), ("lstm", 7), ("mut3", 1), ("mut3", 4)])
def test_chunks_change_memory_and_nothing_else(x64, name, chunk):
    layer, *arguments, loss = case(name, "mask_reset", reverse=True)
    chunked = layer.clone(chunk=chunk)
    ours = gradients(loss, chunked, arguments)
    expected = gradients(loss, layer, arguments)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    jax.tree.map(check, ours, expected)


def test_chunks_keep_only_the_states_at_their_borders():
    layer, inputs = RNN(LSTMCell(8)), jnp.zeros((2, 256, 3))
    variables = jax.jit(layer.init)(jax.random.key(0), inputs)

    def memory(layer):
        gradient = jax.grad(lambda v: (layer.apply(v, inputs)[1] ** 2).sum())
        return jax.jit(gradient).lower(variables).compile().memory_analysis().temp_size_in_bytes

    assert memory(layer.clone(chunk=16)) < 0.35 * memory(layer)


def test_what_is_masked_may_be_anything_even_nan(x64):
    for name in WRITTEN_OUT:
        layer, variables, inputs, carry, _ = case(name, "plain")
        mask = jnp.ones((3, 7), bool).at[0, 2:4].set(False)

        def loss(variables, inputs, layer=layer, mask=mask, carry=carry):
            return layer.apply(variables, inputs, mask=mask, initial_carry=carry)[1].sum()

        broken = inputs.at[0, 2:4].set(jnp.nan)
        value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, broken)
        np.testing.assert_allclose(value, loss(variables, inputs), rtol=1e-12)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)), name

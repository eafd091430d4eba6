"""Variational dropout and zoneout against their equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.recurrent import (
    RNN,
    ConditionedVanillaCell,
    GRUCell,
    LSTMCell,
    VanillaCell,
    from_equations,
)
from tests.cells import CELLS

NOISE = {"train": True, "rngs": {"dropout": jax.random.key(5)}}


def linear(W_hh, W_xh, width=6):
    """A layer of identity activation, `h_t = W_hh h_{t-1} + W_xh x_t`, and its variables."""
    cell = VanillaCell(width, activation=lambda x: x)
    eye = np.eye(width, dtype=np.float32)
    symbols = {"W_hh": W_hh * eye, "W_xh": W_xh * eye, "b_h": np.zeros(width, np.float32)}
    return cell, {"params": {"cell": from_equations(cell, **symbols)["params"]}}


@pytest.mark.parametrize("where", ["input_dropout", "output_dropout"])
def test_one_draw_drops_features_of_a_sequence_at_all_steps(where):
    cell, variables = linear(0, 1)
    x = 1 + jax.random.uniform(jax.random.key(0), (50, 4, 6))
    _, outputs = RNN(cell, **{where: 0.25}).apply(variables, x, **NOISE)
    scale = np.asarray(outputs / x)
    np.testing.assert_allclose(scale, np.broadcast_to(scale[:, :1], scale.shape), rtol=1e-5)
    dropped = scale == 0
    np.testing.assert_allclose(scale[~dropped], 1 / 0.75, rtol=1e-5)
    assert 0.15 < dropped[:, 0].mean() < 0.35


def test_the_state_is_dropped_in_the_recurrent_product_alike_at_all_steps():
    cell, variables = linear(0.5, 0)
    start = jnp.ones((50, 6))
    layer = RNN(cell, state_dropout=0.25)
    _, h = layer.apply(variables, jnp.zeros((50, 3, 6)), initial_carry=start, **NOISE)
    factor = np.asarray(h[:, 0]) * 2
    assert set(np.unique(factor.round(4))) == {0, np.float32(1 / 0.75).round(4)}
    np.testing.assert_allclose(h[:, 1], (factor / 2) ** 2, rtol=1e-5)
    np.testing.assert_allclose(h[:, 2], (factor / 2) ** 3, rtol=1e-5)


def test_a_gru_mixes_the_whole_state_however_much_its_products_miss():
    cell = GRUCell(6, bias_init=lambda key, shape, dtype: jnp.full(shape, 50.0, dtype))  # z = 1
    layer = RNN(cell, state_dropout=0.5)
    x = jnp.zeros((4, 5, 6))
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    _, h = layer.apply(variables, x, initial_carry=jnp.ones((4, 6)), **NOISE)
    np.testing.assert_allclose(h, 1, rtol=1e-6)


def test_in_zoneout_a_unit_takes_its_new_value_or_keeps_the_old(x64):
    layer = RNN(LSTMCell(6, param_dtype=jnp.float64), zoneout=(0.3, 0.0))
    x = jax.random.normal(jax.random.key(0), (20, 1, 3))
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    before = tuple(jax.random.normal(jax.random.key(n), (20, 6)) for n in (2, 3))
    (c, h), outputs = layer.apply(variables, x, initial_carry=before, **NOISE)
    (c_new, h_new), _ = RNN(layer.cell).apply(variables, x, initial_carry=before)
    kept = np.asarray(c == before[0])
    np.testing.assert_allclose(np.asarray(c)[~kept], np.asarray(c_new)[~kept], rtol=1e-12)
    np.testing.assert_allclose(h, h_new, rtol=1e-12)
    np.testing.assert_array_equal(outputs[:, 0], h)
    assert 0.2 < kept.mean() < 0.4


def test_zoneout_is_its_mean_in_evaluation(x64):
    layer = RNN(VanillaCell(4, param_dtype=jnp.float64), zoneout=0.25)
    x = jax.random.normal(jax.random.key(0), (1, 5, 3))
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    _, outputs = layer.apply(variables, x)
    p, h = variables["params"]["cell"], np.zeros(4)
    for t in range(5):
        new = np.tanh(x[0, t] @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"])
        h = 0.25 * h + 0.75 * new
        np.testing.assert_allclose(outputs[0, t], h, rtol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru", "mut1", "recurrent_highway", "nas", "conditioned"])
def test_noise_is_for_training_and_does_not_depend_on_chunks(x64, name):
    rates = {"input_dropout": 0.2, "state_dropout": 0.3, "output_dropout": 0.1, "zoneout": 0.2}
    layer = RNN(CELLS[name](4), **rates, reverse=True)
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    mask = jnp.ones((2, 5), bool).at[1, 3:].set(False)
    variables = jax.jit(layer.init)(jax.random.key(1), x)

    def outputs(layer, **noise):
        apply = functools.partial(layer.apply, mask=mask, **noise)
        return jax.jit(apply)(variables, x)[1]

    noisy = outputs(layer, **NOISE)
    np.testing.assert_allclose(noisy, outputs(layer.clone(chunk=2), **NOISE), rtol=1e-12)
    assert not noisy[1, 3:].any()
    quiet, plain = outputs(layer.clone(zoneout=0.0)), outputs(RNN(CELLS[name](4), reverse=True))
    np.testing.assert_array_equal(quiet, plain)
    assert np.abs(noisy - plain).max() > 0.01


def test_a_condition_is_no_state_that_zoneout_could_keep():
    cell = ConditionedVanillaCell(4, condition_features=2, first_step_only=True)
    layer, x = RNN(cell, zoneout=0.3), jnp.ones((1, 3, 2))
    carry = (jnp.zeros((1, 4)), jnp.ones((1, 2)))
    variables = jax.jit(layer.init)(jax.random.key(0), x, initial_carry=carry)
    (_, v), _ = layer.apply(variables, x, initial_carry=carry)
    np.testing.assert_array_equal(v, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_dropout": 1.0}, "input_dropout, a probability, at least 0 and below 1, got 1.0"),
        ({"zoneout": -0.1}, "zoneout, a probability"),
        ({"zoneout": (0.1, 0.2, 0.3)}, "one probability or as 2, one for every array of the carry"),
    ],
)
def test_rates_that_cannot_be_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        RNN(LSTMCell(4), **fields).init(jax.random.key(0), jnp.zeros((1, 2, 3)))

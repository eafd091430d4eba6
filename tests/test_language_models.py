"""The character language model and its objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.models import CharLM
from nn_lib.objectives import next_token
from nn_lib.recurrent import LSTMCell

KEY = jax.random.key(0)


def test_a_language_models_masked_steps_change_nothing(x64):
    model = CharLM(6, LSTMCell(4))
    tokens = np.array([[1, 2, 3, 4, 5]])
    variables = jax.jit(model.init)(KEY, tokens)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)

    def measure(params, steps):
        batch = {
            "inputs": np.pad(tokens[:, :4], ((0, 0), (0, steps - 4)), constant_values=5),
            "targets": np.pad(tokens[:, 1:], ((0, 0), (0, steps - 4)), constant_values=2),
            "reset": np.zeros((1, steps), bool),
            "mask": np.arange(steps)[None] < 4,
        }
        return next_token(model, {"params": params}, batch, {}, model.initialize_carry(1), True)[0]

    for steps in (4, 7):
        differentiate = jax.jit(jax.value_and_grad(measure), static_argnums=1)
        loss, gradient = differentiate(variables["params"], steps)
        if steps == 4:
            first = loss, gradient
    np.testing.assert_allclose(loss, first[0], rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, first[1]
    )


@pytest.fixture(scope="module")
def streams():
    """A model, its parameters, a batch of 64 equal streams, and a state that is not zero."""
    model = CharLM(6, LSTMCell(4))
    tokens = np.tile([[1, 2, 3, 4, 5]], (64, 1))
    batch = {
        "inputs": tokens[:, :4],
        "targets": tokens[:, 1:],
        "reset": np.zeros((64, 4), bool),
        "mask": np.ones((64, 4), bool),
    }
    carry = jax.tree.map(lambda leaf: leaf + 0.5, model.initialize_carry(64))
    return model, model.init(KEY, tokens), batch, carry


def _loss(streams, *, restart, train=True, carry=None, key=KEY):
    model, variables, batch, before = streams
    before = before if carry is None else carry

    @jax.jit
    def measure(variables, batch, key, before):
        rngs = {"dropout": key}
        return next_token(model, variables, batch, rngs, before, train, restart=restart)[0]

    return measure(variables, batch, key, before)


def test_a_restarted_stream_begins_with_the_zero_state(streams):
    zero = jax.tree.map(jnp.zeros_like, streams[3])
    carried, fresh = _loss(streams, restart=0), _loss(streams, restart=0, carry=zero)
    assert abs(carried - fresh) > 1e-3
    np.testing.assert_allclose(_loss(streams, restart=1.0), fresh, rtol=1e-6)
    assert _loss(streams, restart=1.0, train=False) == _loss(streams, restart=0, train=False)


def test_streams_restart_as_often_as_asked_and_anew_with_each_key(streams):
    zero = jax.tree.map(jnp.zeros_like, streams[3])
    carried, fresh = _loss(streams, restart=0), _loss(streams, restart=0, carry=zero)
    keys = jax.random.split(KEY, 40)
    losses = jax.vmap(lambda key: _loss(streams, restart=0.3, key=key))(keys)
    shares = (losses - carried) / (fresh - carried)  # the streams are alike: a mean of two values
    assert len(np.unique(np.round(shares, 3))) > 5
    assert abs(np.mean(shares) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / (64 * 40))

"""What adds up over many steps or examples in a computation in bfloat16 adds up in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.layers import Conv, Subsampling, local_response_norm
from nn_lib.layers.dense import Dense, Embed
from nn_lib.recurrent import (
    RNN,
    BahdanauCell,
    Bidirectional,
    GRUCell,
    LSTMCell,
    LuongCell,
    MUT3Cell,
    NASCell,
    RecurrentHighwayCell,
    VanillaCell,
)
from tests.cells import CELLS
from tests.test_precision import distance

BATCH, STEPS, WIDTH, TOLERANCE = 3, 1024, 8, 0.01
"""One rounding of bfloat16 is 0.004; summed in it, these many steps are wrong by 0.03 to 0.5."""

LAYERS = {name: lambda dtype, make=make: RNN(half(make, dtype)) for name, make in CELLS.items()}
LAYERS |= {
    "lstm_by_scan": lambda dtype: RNN(LSTMCell(WIDTH, dtype=dtype), custom_gradient=False),
    "gru_by_scan": lambda dtype: RNN(GRUCell(WIDTH, dtype=dtype), custom_gradient=False),
    "vanilla_by_scan": lambda dtype: RNN(VanillaCell(WIDTH, dtype=dtype), custom_gradient=False),
    "chunks": lambda dtype: RNN(LSTMCell(WIDTH, dtype=dtype), chunk=4),
    "chunks_by_scan": lambda dtype: RNN(NASCell(WIDTH, dtype=dtype), chunk=4),
    "zoneout": lambda dtype: RNN(LSTMCell(WIDTH, dtype=dtype), zoneout=0.1),
    "state_dropout": lambda dtype: RNN(GRUCell(WIDTH, dtype=dtype), state_dropout=0.25),
    "learned_start": lambda dtype: RNN(MUT3Cell(WIDTH, dtype=dtype), learned_initial_carry=True),
    "bidirectional": lambda dtype: Bidirectional(
        RNN(RecurrentHighwayCell(WIDTH, dtype=dtype)),
        RNN(RecurrentHighwayCell(WIDTH, dtype=dtype), reverse=True),
    ),
    "bahdanau": lambda dtype: RNN(attending(BahdanauCell, dtype)),
    "luong": lambda dtype: RNN(attending(LuongCell, dtype)),
}


def half(make, dtype):
    return make(features=WIDTH).clone(param_dtype=jnp.float32, dtype=dtype)


def attending(kind, dtype):
    return kind(WIDTH, cell=GRUCell(WIDTH, dtype=dtype), memory_features=WIDTH, dtype=dtype)


QUICK = ("lstm_by_scan", "recurrent_highway", "chunks_by_scan", "lstm")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LAYERS]
)
def test_a_gradient_over_many_steps_in_bfloat16_is_near_that_of_float32(name):
    assert error_of_gradient(name) < TOLERANCE


def error_of_gradient(name):
    """Of parameters and memory in bfloat16, relative to float32.

    The state begins anew every other step, so that what the precision changes in it is no chaos:
    what is measured is the sum over the steps. Inputs are of one sign, so that it does not cancel,
    and values that both precisions have.
    """
    keys = jax.random.split(jax.random.key(1), 3)
    x, memory = (
        jnp.abs(jax.random.normal(key, shape)).astype(jnp.bfloat16).astype(jnp.float32)
        for key, shape in zip(keys, ((BATCH, STEPS, WIDTH), (BATCH, 5, WIDTH)))
    )
    reset = jnp.broadcast_to(jnp.arange(STEPS) % 2 == 0, (BATCH, STEPS))
    attends = name in ("bahdanau", "luong")

    def run(layer, params, memory, x, reset):
        more = {"context": (memory, None)} if attends else {}
        rngs = {"dropout": keys[0]}
        return layer.apply(params, x, reset=reset, train=True, rngs=rngs, **more)[1]

    more = {"context": (memory, None)} if attends else {}
    params = LAYERS[name](None).init(keys[2], x[:, :2], **more)

    def gradient(dtype):
        layer = LAYERS[name](dtype)

        def loss(params, memory):
            outputs = run(layer, params, memory, x.astype(dtype or x.dtype), reset)
            return outputs.astype(jnp.float32).mean((1, 2)).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(params, memory)

    return distance(gradient(jnp.bfloat16), gradient(None))


def test_response_norm_of_bfloat16_is_that_of_float32_rounded_once():
    x = (100 * jax.random.normal(jax.random.key(0), (2, 3, 300))).astype(jnp.bfloat16)
    ours = local_response_norm(x, 101, alpha=1e-3)
    expected = local_response_norm(x.astype(jnp.float32), 101, alpha=1e-3)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=2**-8)


@pytest.mark.parametrize(
    "layer",
    [Dense(2), Conv(2, (1,)), Subsampling((1,)), Embed(2, 2)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_gradient_over_many_examples_in_bfloat16_is_near_that_of_float32(layer):
    """Of 3,000 examples alike; a sum of ones in bfloat16 ends at 256."""
    x = jnp.zeros((300, 10), int) if isinstance(layer, Embed) else jnp.ones((300, 10, 2))
    params = jax.jit(layer.init)(jax.random.key(0), x)

    def gradient(dtype):
        def loss(params):
            given = x if isinstance(layer, Embed) else x.astype(dtype)
            return layer.clone(dtype=dtype).apply(params, given).astype(jnp.float32).sum()

        return jax.jit(jax.grad(loss))(params)

    assert distance(gradient(jnp.bfloat16), gradient(jnp.float32)) < TOLERANCE

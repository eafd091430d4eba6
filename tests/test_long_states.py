"""A state that adds up over many steps is float32 in half precision, and so are its cotangents."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.recurrent import (
    RNN,
    BahdanauCell,
    GRUCell,
    LSTMCell,
    LuongCell,
    MUT1Cell,
    MUT2Cell,
    MUT3Cell,
    NASCell,
    RecurrentHighwayCell,
    VanillaCell,
)
from tests.cells import CELLS

STEPS, OPEN, SLOW = 2000, 100.0, 7.0
"""`sigma(OPEN)` is one; `sigma(SLOW)` is 0.9991, which bfloat16 knows as one."""

HALF = jnp.dtype(jnp.bfloat16)
stays = 1 / (1 + math.exp(-SLOW))
lasts = 1 - stays**STEPS

# What a unit keeps of steps alike, (the state, the gradient of the sum of its outputs by the
# input of the first step), for a candidate of 1 with the slope 1.
SUM = STEPS, STEPS
LEAK = lasts / (1 - stays), lasts / (1 - stays)
MEAN = lasts, lasts

# A cell, its bias by blocks, the column of the kernel that the input enters by, what it keeps.
half = functools.partial(dict, features=1, dtype=HALF)
WRITTEN = {
    "lstm": (LSTMCell(**half()), [OPEN, OPEN, OPEN, 0], 3, SUM),
    "lstm_forgetting": (LSTMCell(**half()), [OPEN, SLOW, OPEN, 0], 3, LEAK),
    "gru": (GRUCell(**half()), [0, SLOW, 0], 2, MEAN),
    "gru_reset_after": (GRUCell(**half(reset_after=True)), [0, SLOW, 0], 2, MEAN),
}
SCANNED = {
    "lstm_peephole": (LSTMCell(**half(peephole=True)), [OPEN, OPEN, OPEN, 0], 3, SUM),
    "lstm_1997": (LSTMCell(**half(gates="no_forget")), [OPEN, OPEN, 0], 2, SUM),
    "lstm_coupled": (LSTMCell(**half(gates="coupled")), [SLOW, OPEN, 0], 2, MEAN),
    "highway": (RecurrentHighwayCell(**half(depth=1)), [[0, -SLOW]], 0, MEAN),
    "mut1": (MUT1Cell(**half()), [0, -SLOW, 0], None, MEAN),
    "mut2": (MUT2Cell(**half()), [0, -SLOW, 0], 1, MEAN),
    "mut3": (MUT3Cell(**half()), [0, -SLOW, 0], 2, MEAN),
    "zoneout": (VanillaCell(**half()), [0], 0, MEAN),
}
CASES = {name: (case, True) for name, case in WRITTEN.items()}
CASES |= {f"{name}_by_scan": (case, False) for name, case in (WRITTEN | SCANNED).items()}
QUICK = ("lstm", "lstm_by_scan", "gru", "gru_by_scan", "gru_reset_after", "zoneout_by_scan")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_a_state_of_many_steps_and_its_gradient_are_those_of_the_closed_form(name):
    (cell, bias, column, (kept, slope)), custom = CASES[name]
    zoneout = stays if name.startswith("zoneout") else 0.0
    layer = RNN(cell, custom_gradient=custom, zoneout=zoneout)
    variables = {"params": {"cell": parameters(cell, bias, column)}}

    @jax.jit
    def run(x):
        def total(x):
            carry, outputs = layer.apply(variables, x)
            return outputs.astype(jnp.float32).sum(), (carry, outputs)

        gradient, (carry, outputs) = jax.grad(total, has_aux=True)(x)
        return gradient, carry, outputs

    x = jnp.full((1, STEPS, 1), 2**-7, HALF)  # a candidate of nearly 2^-7
    _, carry, outputs = run(x)
    state = jax.tree.leaves(carry)[0]
    assert state.dtype == jnp.float32 and outputs.dtype == HALF
    np.testing.assert_allclose(state, [[kept * 2**-7]], rtol=0.01)
    np.testing.assert_allclose(run(0 * x)[0][0, 0].astype(jnp.float32), slope, rtol=0.01)


def parameters(cell, bias, column):
    """Zeros, but for the bias and for the input's way to the candidate."""
    made = jax.eval_shape(cell.init, jax.random.key(0), *one_step(cell))["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), made)
    kernel = params["kernel"]
    kernel = kernel if column is None else kernel.at[0, column].set(1)
    return {**params, "bias": jnp.array(bias, jnp.float32), "kernel": kernel}


def one_step(cell):
    return cell.initialize_carry(jax.random.key(0), (1, 1)), jnp.zeros((1, 1))


def test_a_state_carried_over_many_windows_loses_nothing():
    cell, bias, column, _ = WRITTEN["lstm"]
    variables = {"params": {"cell": parameters(cell, bias, column)}}
    layer = RNN(cell)
    read = jax.jit(lambda carry, x: layer.apply(variables, x, initial_carry=carry)[0])
    carry = layer.initialize_carry(1)
    for _ in range(STEPS // 20):
        carry = read(carry, jnp.full((1, 20, 1), 2**-7, HALF))
    np.testing.assert_allclose(carry[0], [[STEPS * 2**-7]], rtol=0.01)


@pytest.mark.parametrize("custom", [True, False])
def test_a_saturated_vanilla_cell_has_the_gradient_of_float32(custom):
    """h = tanh(4) is one in bfloat16, and 1 - h^2 would be zero."""
    cell = VanillaCell(1, dtype=HALF)
    variables = {"params": {"cell": parameters(cell, [4.0], 0)}}
    layer = RNN(cell, custom_gradient=custom)
    gradient = jax.grad(lambda x: layer.apply(variables, x)[1].astype(jnp.float32).sum())
    found = gradient(jnp.zeros((1, 3, 1), HALF)).astype(jnp.float32)
    np.testing.assert_allclose(found, np.full((1, 3, 1), np.cosh(4) ** -2), rtol=0.01)


@pytest.mark.parametrize("name", CELLS)
def test_the_carry_of_half_precision_is_float32_and_stays_so_in_both_drivers(name):
    cell = CELLS[name](4).clone(param_dtype=jnp.float32, dtype=HALF)
    x, key = jnp.zeros((2, 3, 4), HALF), jax.random.key(0)
    for layer in (RNN(cell), RNN(cell, chunk=2, custom_gradient=False)):
        check(*jax.eval_shape(layer.init_with_output, key, x)[0])
    flax = functools.partial(nn.RNN(cell, return_carry=True).init_with_output, key, x)
    check(*jax.eval_shape(flax)[0])
    check(layer.initialize_carry(2))


@pytest.mark.parametrize("kind", [BahdanauCell, LuongCell])
def test_the_carry_of_a_cell_that_attends_is_float32_too(kind):
    inner = NASCell(3, dtype=HALF)
    layer = RNN(kind(4, cell=inner, memory_features=2, dtype=HALF))
    context = (jnp.zeros((2, 5, 2)), None)
    run = functools.partial(layer.init_with_output, jax.random.key(0), context=context)
    check(*jax.eval_shape(run, jnp.zeros((2, 3, 4), HALF))[0])
    check(layer.initialize_carry(2))


def check(carry, outputs=None):
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype(jnp.float32)}
    assert outputs is None or outputs.dtype == HALF

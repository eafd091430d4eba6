"""Every recurrent cell once, in float64, for the tests that hold for all of them."""

import functools

import jax.numpy as jnp
import pytest

from nn_lib.recurrent import (
    ConditionedVanillaCell,
    GRUCell,
    LSTMCell,
    MUT1Cell,
    MUT2Cell,
    MUT3Cell,
    NASCell,
    RecurrentHighwayCell,
    VanillaCell,
)


def in_float64(cell, **fields):
    return functools.partial(cell, param_dtype=jnp.float64, **fields)


CELLS = {
    "vanilla": in_float64(VanillaCell),
    "lstm": in_float64(LSTMCell),
    "lstm_peephole": in_float64(LSTMCell, peephole=True),
    "lstm_projected": in_float64(LSTMCell, projection=4),
    "lstm_layer_norm": in_float64(LSTMCell, layer_norm=True),
    "lstm_coupled_peephole": in_float64(LSTMCell, gates="coupled", peephole=True),
    "lstm_1997": in_float64(LSTMCell, gates="no_forget"),
    "gru": in_float64(GRUCell),
    "gru_reset_after": in_float64(GRUCell, reset_after=True),
    "gru_double_bias": in_float64(GRUCell, reset_after=True, double_bias=True),
    "mut1": in_float64(MUT1Cell),
    "mut2": in_float64(MUT2Cell),
    "mut3": in_float64(MUT3Cell),
    "recurrent_highway": in_float64(RecurrentHighwayCell, depth=3),
    "nas": in_float64(NASCell),
    "conditioned": in_float64(ConditionedVanillaCell, condition_features=2),
}

# The equations of one cell each; the options and kin of these are left to the slow tests.
MAIN = ("vanilla", "lstm", "gru", "gru_reset_after", "mut3")


def every_cell(main=MAIN):
    """Names for `parametrize`: all of `CELLS`, those beside `main` in the slow tests."""
    return [name if name in main else pytest.param(name, marks=pytest.mark.slow) for name in CELLS]

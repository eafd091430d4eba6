"""Cells against the lectures' vectors and their own equations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.layers.initializers import scaled_identity, scaled_orthogonal, symmetric_uniform
from nn_lib.recurrent import (
    RNN,
    ConditionedVanillaCell,
    GRUCell,
    LSTMCell,
    MUT1Cell,
    MUT2Cell,
    MUT3Cell,
    NASCell,
    RecurrentHighwayCell,
    VanillaCell,
    from_equations,
    output_distribution,
    to_equations,
)
from tests.cells import CELLS
from tests.conftest import F

h, x = F((3,), 31, 0.8), F((2,), 41)


def step(cell, symbols, carry, inputs):
    """One step on column vectors with the weights of the equations, as the lectures write it."""
    carry = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], carry)
    return cell.apply(from_equations(cell, **symbols), carry, jnp.asarray(inputs)[None])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_the_vanilla_vector(x64):
    symbols = {"W_hh": F((3, 3), 1, 0.5), "W_xh": F((3, 2), 11, 0.5), "b_h": F((3,), 21, 0.1)}
    _, out = step(VanillaCell(3), symbols, h, x)
    close(out[0], [0.48528892, -0.59741758, 0.26605633])


def test_the_output_rule_gives_the_figures_probabilities_of_hello(x64):
    scores = jnp.array([[1, 2.2, -3, 4.1], [0.5, 0.3, -1, 1.2]])
    found = output_distribution(jnp.eye(4), scores)
    expected = [[0.0377, 0.1251, 0.0007, 0.8365], [0.2466, 0.2019, 0.0550, 0.4965]]
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_the_lstm_vector_has_gates_in_the_order_i_f_o_g(x64):
    symbols = {"W": F((12, 5), 1, 0.5), "b": F((12,), 2, 0.1)}
    (c, _), out = step(LSTMCell(3), symbols, (F((3,), 51, 0.7), h), x)
    close(out[0], [-0.06037268, 0.26842485, 0.11898838])
    close(c[0], [-0.08665113, 0.70827451, 0.45766935])


def lstm_loop(s, c, h, x, gates):
    """The variants of the LSTM on column vectors, one equation after the other."""
    sigma = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    norm = lambda z: (z - z.mean()) / np.sqrt(z.var() + 1e-6)  # noqa: E731
    split = len(h)
    from_h, from_x = s["W"][:, :split] @ h, s["W"][:, split:] @ x
    if "g_x" in s:
        from_h, from_x = s["g_h"] * norm(from_h), s["g_x"] * norm(from_x)
    a = dict(zip(gates, np.split(from_h + from_x + s["b"], len(gates))))
    f = sigma(a["f"] + s.get("p_f", 0) * c) if "f" in gates else 1.0
    i = sigma(a["i"] + s.get("p_i", 0) * c) if "i" in gates else 1 - f
    c = f * c + i * np.tanh(a["g"])
    o = sigma(a["o"] + s.get("p_o", 0) * c)
    h = o * np.tanh(s["g_c"] * norm(c) + s["b_c"] if "g_c" in s else c)
    return c, s["W_hr"] @ h if "W_hr" in s else h


@pytest.mark.parametrize(
    ("fields", "gates"),
    [
        ({"peephole": True}, "ifog"),
        ({"projection": 2}, "ifog"),
        ({"layer_norm": True}, "ifog"),
        ({"gates": "coupled", "peephole": True}, "fog"),
        ({"gates": "no_forget", "peephole": True}, "iog"),
        ({"peephole": True, "projection": 2, "layer_norm": True}, "ifog"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_the_variants_of_the_lstm_are_their_equations(x64, fields, gates):
    cell = LSTMCell(3, param_dtype=jnp.float64, **fields)
    c, h, x = F((3,), 51, 0.7), F((cell.projection or 3,), 31, 0.8), F((2,), 41)
    variables = jax.jit(cell.init)(jax.random.key(0), (c[None], h[None]), x[None])
    variables = jax.tree.map(
        lambda leaf: leaf + F(leaf.shape, leaf.size, 0.3), jax.tree.map(np.asarray, variables)
    )
    symbols = to_equations(cell, variables)
    (c_after, _), out = step(cell, symbols, (c, h), x)
    expected_c, expected = lstm_loop(symbols, c, h, x, gates)
    close(c_after[0], expected_c)
    close(out[0], expected)


def test_without_a_forget_gate_the_error_flows_on_unchanged(x64):
    """The constant error carousel: dc_t / dc_{t-1} = 1, the paths through h cut."""
    cell = LSTMCell(3, gates="no_forget")
    symbols = {"W": F((9, 5), 1, 0.5), "b": F((9,), 2, 0.1)}
    symbols["W"][:, :3] = 0

    def last(c0):
        carry = (c0, jnp.zeros((1, 3)))
        params = {"params": {"cell": from_equations(cell, **symbols)["params"]}}
        inputs = jnp.asarray(F((1, 20, 2), 5))
        return RNN(cell).apply(params, inputs, initial_carry=carry)[0][0][0]

    slope = jax.jacobian(last)(jnp.zeros((1, 3)))[:, 0]
    np.testing.assert_allclose(slope, np.eye(3), atol=1e-12)


GATED = ("W_xr", "W_hr", "b_r", "W_xz", "W_hz", "b_z", "W_xh", "W_hh", "b_h")


def gated_symbols(cell, inputs):
    """W_xr, W_hr, ... = F(shape, 1 + 10 k, 0.5), those that the cell's equations have."""
    shapes = [(3, inputs), (3, 3), (3,)] * 3
    every = {name: F(shape, 1 + 10 * k, 0.5) for k, (name, shape) in enumerate(zip(GATED, shapes))}
    if getattr(cell, "reset_after", False):
        return {**every, "b_hn": np.zeros(3)}
    without = {MUT1Cell: ("W_hz", "W_xh"), MUT2Cell: ("W_xr",)}.get(type(cell), ())
    return {name: value for name, value in every.items() if name not in without}


@pytest.mark.parametrize(
    ("cell", "inputs", "expected"),
    [
        (GRUCell(3), 2, [-0.17495428, 0.25201713, 0.57104120]),
        (GRUCell(3, reset_after=True), 2, [-0.18802773, 0.25941712, 0.57201555]),
        (MUT1Cell(3), 3, [-0.41050701, -0.21713837, 0.34908565]),
        (MUT2Cell(3), 3, [-0.25799582, -0.05521018, 0.77506390]),
        (MUT3Cell(3), 3, [-0.24634874, -0.08026807, 0.78119442]),
        (MUT3Cell(3), 2, [-0.21923863, 0.06306412, 0.53387390]),
    ],
    ids=["gru", "gru_reset_after", "mut1", "mut2", "mut3", "mut3_two_inputs"],
)
def test_the_vectors_of_the_gated_cells(x64, cell, inputs, expected):
    _, out = step(cell, gated_symbols(cell, inputs), h, F((inputs,), 41))
    close(out[0], expected)


def test_the_nas_vector_and_its_bounds(x64):
    cell = NASCell(3)
    symbols = {"W_x": F((2, 24), 1, 0.5), "W_m": F((3, 24), 60, 0.5), "b": F((24,), 7, 0.1)}
    (c, m), out = step(cell, symbols, (F((3,), 51, 0.7), h), x)
    close(m[0], [0.20086868, 0.21431517, 0.07795339])
    close(c[0], [0.28171520, 0.31115497, 0.16125203])
    np.testing.assert_array_equal(out, m)
    zeros = {name: np.zeros_like(value) for name, value in symbols.items()}
    (c, m), _ = step(cell, zeros, (np.zeros(3), np.zeros(3)), x)
    assert not c.any() and not m.any()
    large = {name: 50 * value for name, value in symbols.items()}
    (c, m), _ = step(cell, large, (np.full(3, 9.0), np.ones(3)), x)
    assert (abs(c) <= 1).all() and (abs(m) <= np.tanh(1)).all()


def test_a_gru_copies_at_z_one_and_forgets_at_z_and_r_zero(x64):
    symbols = gated_symbols(GRUCell(3), 2)
    _, out = step(GRUCell(3), {**symbols, "b_z": np.full(3, 50.0)}, h, x)
    close(out[0], h)
    off = {**symbols, "b_z": np.full(3, -50.0), "b_r": np.full(3, -50.0)}
    _, out = step(GRUCell(3), off, h, x)
    close(out[0], np.tanh(symbols["W_xh"] @ x + symbols["b_h"]))


def test_recurrent_highway_is_a_loop_over_its_layers(x64):
    s = {
        **{"W_H": F((3, 2), 1, 0.5), "W_T": F((3, 2), 11, 0.5)},
        **{"R_H": F((2, 3, 3), 21, 0.5), "R_T": F((2, 3, 3), 51, 0.5)},
        **{"b_H": F((2, 3), 81, 0.5), "b_T": F((2, 3), 91, 0.5)},
    }
    _, out = step(RecurrentHighwayCell(3, depth=2), s, h, x)
    state = h
    for layer in range(2):
        first = float(layer == 0)
        u = np.tanh(first * s["W_H"] @ x + s["R_H"][layer] @ state + s["b_H"][layer])
        a = first * s["W_T"] @ x + s["R_T"][layer] @ state + s["b_T"][layer]
        g = 1 / (1 + np.exp(-a))
        state = u * g + state * (1 - g)
    close(out[0], state)


@pytest.mark.parametrize("first_step_only", [False, True])
def test_a_condition_enters_every_step_or_the_first(x64, first_step_only):
    s = {"W_hh": F((3, 3), 1, 0.5), "W_xh": F((3, 2), 11, 0.5), "b_h": F((3,), 21, 0.1)}
    s["W_ih"] = F((3, 4), 61, 0.5)
    v, inputs = F((4,), 71), F((3, 2), 41)
    cell = ConditionedVanillaCell(3, condition_features=4, first_step_only=first_step_only)
    start = (jnp.asarray(h)[None], jnp.asarray(v)[None])
    params = {"params": {"cell": from_equations(cell, **s)["params"]}}
    _, outputs = RNN(cell).apply(params, jnp.asarray(inputs)[None], initial_carry=start)
    state, expected = h, []
    for t, now in enumerate(inputs):
        seen = v if t == 0 or not first_step_only else 0 * v
        state = np.tanh(s["W_hh"] @ state + s["W_xh"] @ now + s["W_ih"] @ seen + s["b_h"])
        expected.append(state)
    close(outputs[0], expected)


@pytest.mark.parametrize("name", CELLS)
def test_the_symbols_of_a_cell_are_its_weights_and_give_them_back(x64, name):
    cell = CELLS[name](4)
    init = jax.jit(cell.init)
    variables = init(jax.random.key(0), cell.initialize_carry(None, (2, 4)), jnp.ones((2, 4)))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    again = from_equations(cell, **to_equations(cell, variables))
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, variables)
    inputs = jax.random.normal(jax.random.key(1), (2, 3, 4))

    @jax.jit
    def outputs(variables):
        return RNN(cell).apply({"params": {"cell": variables["params"]}}, inputs)[1]

    np.testing.assert_allclose(outputs(again), outputs(variables), rtol=1e-12)


def test_symbols_that_a_cell_has_not_are_named():
    with pytest.raises(UserError, match=r"MUT1Cell expects .*missing: W_hh.* unknown: W_hz"):
        from_equations(MUT1Cell(3), **{n: np.zeros(3) for n in GATED if n not in ("W_xh", "W_hh")})


@pytest.mark.parametrize("cell", [MUT1Cell(4), MUT2Cell(4)], ids=["mut1", "mut2"])
def test_cells_that_add_their_input_to_their_state_say_so(cell):
    with pytest.raises(UserError, match=r"expects inputs \[B, 4\] like its state, got \[B, 3\]: "):
        cell.init(jax.random.key(0), jnp.zeros((1, 4)), jnp.zeros((1, 3)))


def test_back_propagation_through_time_is_the_sum_of_the_lectures_terms(x64):
    inputs = jnp.array([1.0, -1.0, 0.5]).reshape(1, 3, 1)

    def states(w):
        params = {"recurrent_kernel": w, "kernel": jnp.full((1, 1), 0.5), "bias": jnp.zeros(1)}
        return RNN(VanillaCell(1)).apply({"params": {"cell": params}}, inputs)[1][0, :, 0]

    w = jnp.full((1, 1), 0.8)
    np.testing.assert_allclose(states(w), [0.46211716, -0.12957373, 0.14530523], rtol=0, atol=1e-8)
    slopes = jax.jacobian(states)(w)[:, 0, 0]
    np.testing.assert_allclose(slopes, [0, 0.45435851, 0.22897433], rtol=0, atol=1e-8)


def test_an_irnn_begins_by_copying_its_rectified_state(x64):
    cell = VanillaCell(
        3, activation=nn.relu, recurrent_kernel_init=scaled_identity, param_dtype=jnp.float64
    )
    start = jnp.array([[1.0, 0.5, 2.0]])
    variables = RNN(cell).init(jax.random.key(0), jnp.zeros((1, 4, 2)))
    carry, _ = RNN(cell).apply(variables, jnp.zeros((1, 4, 2)), initial_carry=start)
    np.testing.assert_array_equal(carry, start)
    symbols = to_equations(cell, {"params": variables["params"]["cell"]})
    _, out = step(cell, {**symbols, "b_h": F((3,), 21)}, h, x)
    close(out[0], np.maximum(symbols["W_hh"] @ h + symbols["W_xh"] @ x + F((3,), 21), 0))


def test_scaled_initialisers_have_their_singular_values():
    for init, scale in ((scaled_identity, 0.5), (scaled_orthogonal, 1.3)):
        W = init(jax.random.key(0), (5, 5), jnp.float32, scale=scale)
        np.testing.assert_allclose(np.linalg.svd(W)[1], scale, rtol=1e-5)
    W = symmetric_uniform(jax.random.key(0), (100, 100), jnp.float32, bound=0.25)
    assert -0.25 <= W.min() < -0.24 and 0.24 < W.max() <= 0.25

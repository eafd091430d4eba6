"""Cells against the lectures' vectors, drivers against loops over single sequences."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.recurrent import (
    RNN,
    Bidirectional,
    ConditionedVanillaCell,
    GRUCell,
    LSTMCell,
    MUT1Cell,
    MUT2Cell,
    MUT3Cell,
    NASCell,
    RecurrentHighwayCell,
    Stacked,
    VanillaCell,
    from_equations,
    lengths_to_mask,
    to_equations,
)
from nn_lib.recurrent.cell import Cell
from tests.conftest import F


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
    variables = cell.init(jax.random.key(0), (c[None], h[None]), x[None])
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
    variables = cell.init(jax.random.key(0), cell.initialize_carry(None, (2, 4)), jnp.ones((2, 4)))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    again = from_equations(cell, **to_equations(cell, variables))
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, variables)
    inputs = jax.random.normal(jax.random.key(1), (2, 3, 4))

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


@pytest.mark.parametrize("name", CELLS)
def test_our_driver_equals_flaxs_driver(x64, name):
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 4))
    variables = RNN(CELLS[name](4)).init(jax.random.key(1), inputs)
    carry, outputs = RNN(CELLS[name](4)).apply(variables, inputs)
    their_carry, theirs = nn.RNN(CELLS[name](4), return_carry=True).apply(variables, inputs)
    np.testing.assert_allclose(outputs, theirs, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), carry, their_carry)


def test_flaxs_cells_run_in_our_driver_under_masks_and_resets(x64):
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 3))
    ours = RNN(nn.GRUCell(4, param_dtype=jnp.float64))
    variables = ours.init(jax.random.key(1), inputs)
    _, plain = ours.apply(variables, inputs)
    theirs = nn.RNN(nn.GRUCell(4, param_dtype=jnp.float64)).apply(variables, inputs)
    np.testing.assert_allclose(plain, theirs, rtol=1e-12)
    mask = jnp.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    carry, outputs = ours.apply(variables, inputs, mask=mask)
    np.testing.assert_allclose(outputs[0], jnp.where(mask[0, :, None], plain[0], 0), rtol=1e-12)
    np.testing.assert_allclose(carry[0], plain[0, 1], rtol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_padded_batch_equals_the_loop_over_single_sequences(x64, name, reverse):
    lengths, width = jnp.array([5, 2, 0]), 5
    inputs = jax.random.normal(jax.random.key(0), (3, width, 4))
    layer = RNN(CELLS[name](4), reverse=reverse)
    variables = layer.init(jax.random.key(1), inputs)
    weight = jax.random.normal(jax.random.key(2), (3, width, 4))

    def padded(variables):
        mask = lengths_to_mask(lengths, width)
        return (layer.apply(variables, inputs, mask=mask)[1] * weight).sum()

    def looped(variables):
        total = 0.0
        for row, length in enumerate([5, 2]):
            _, outputs = layer.apply(variables, inputs[row : row + 1, :length])
            total += (outputs[0] * weight[row, :length]).sum()
        return total

    value, gradient = jax.value_and_grad(padded)(variables)
    expected, expected_gradient = jax.value_and_grad(looped)(variables)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        gradient,
        expected_gradient,
    )


@pytest.mark.parametrize("name", CELLS)
def test_a_reset_begins_a_new_sequence(x64, name):
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 4))
    layer = RNN(CELLS[name](4))
    variables = layer.init(jax.random.key(1), inputs)
    reset = jnp.zeros((2, 6), bool).at[0, 4].set(True)
    _, outputs = layer.apply(variables, inputs, reset=reset)
    _, plain = layer.apply(variables, inputs)
    _, tail = layer.apply(variables, inputs[:, 4:])
    np.testing.assert_allclose(outputs[1], plain[1], rtol=1e-12)
    np.testing.assert_allclose(outputs[0, :4], plain[0, :4], rtol=1e-12)
    np.testing.assert_allclose(outputs[0, 4:], tail[0], rtol=1e-12)


def test_two_windows_with_carried_state_are_one_long_window(x64):
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    layer = Stacked([RNN(CELLS["lstm"](4)), RNN(CELLS["gru"](5))])
    variables = layer.init(jax.random.key(1), inputs)
    _, whole = layer.apply(variables, inputs)
    carry, first = layer.apply(variables, inputs[:, :4])
    _, second = layer.apply(variables, inputs[:, 4:], initial_carry=carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, rtol=1e-12)


def test_both_directions_see_the_right_end_of_each_sequence(x64):
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 3))
    layer = Bidirectional(RNN(CELLS["gru"](4)), RNN(CELLS["gru"](4), reverse=True))
    variables = layer.init(jax.random.key(1), inputs)
    mask = lengths_to_mask(jnp.array([3, 5]), 5)
    _, outputs = layer.apply(variables, inputs, mask=mask)
    _, alone = layer.apply(variables, inputs[:1, :3])
    np.testing.assert_allclose(outputs[0, :3], alone[0], rtol=1e-12)
    assert not outputs[0, 3:].any()


def test_the_learned_initial_carry_is_a_parameter_with_a_gradient():
    inputs = jnp.ones((2, 3, 3))
    layer = RNN(LSTMCell(4), learned_initial_carry=True)
    variables = layer.init(jax.random.key(0), inputs)
    gradient = jax.grad(lambda v: layer.apply(v, inputs)[1].sum())(variables)
    assert all(jnp.abs(leaf).max() > 0 for leaf in gradient["params"]["initial_carry"])


@pytest.mark.parametrize("name", CELLS)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(name):
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 4))
    cell = CELLS[name](4).clone(param_dtype=jnp.float32)
    layer = RNN(cell.clone(dtype=jnp.bfloat16))
    variables = layer.init(jax.random.key(1), inputs)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    carry, outputs = layer.apply(variables, inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, outputs))} == {jnp.dtype(jnp.bfloat16)}
    _, exact = RNN(cell).apply(variables, inputs)
    np.testing.assert_allclose(outputs.astype(jnp.float32), exact, atol=0.03)


WRITTEN_OUT = ("vanilla", "lstm", "gru", "gru_reset_after")
FLAGS = {
    "plain": {},
    "reset": {"reset": 0.3},
    "mask": {"mask": 0.6},
    "mask_reset": {"mask": 0.6, "reset": 0.3},
}


def case(name, flags, **fields):
    """A layer, its variables, inputs, an initial carry, and a loss under random flags."""
    keys = iter(jax.random.split(jax.random.key(0), 12))
    layer = RNN(CELLS[name](4), **fields)
    inputs = jax.random.normal(next(keys), (3, 7, 3))
    carry = jax.tree.map(
        lambda leaf: jax.random.normal(next(keys), leaf.shape), layer.initialize_carry(3)
    )
    flags = {k: jax.random.bernoulli(next(keys), p, (3, 7)) for k, p in FLAGS[flags].items()}
    if "mask" in flags:
        flags["mask"] = flags["mask"].at[1].set(False)  # a row that is masked throughout
    variables = layer.init(next(keys), inputs)
    weights = jax.random.normal(next(keys), (3, 7, 4)), jax.random.normal(next(keys), (3, 4))

    def loss(layer, variables, inputs, carry):
        carry, outputs = layer.apply(variables, inputs, initial_carry=carry, **flags)
        ends = sum(
            (leaf * weights[1] ** n).sum() for n, leaf in enumerate(jax.tree.leaves(carry), 1)
        )
        return (outputs * weights[0]).sum() + ends

    return layer, variables, inputs, carry, loss


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_written_out_gradient_is_that_of_the_generic_scan(x64, name, flags, reverse):
    layer, *arguments, loss = case(name, flags, reverse=reverse)
    generic = layer.clone(custom_gradient=False)
    ours = jax.value_and_grad(functools.partial(loss, layer), (0, 1, 2))(*arguments)
    expected = jax.value_and_grad(functools.partial(loss, generic), (0, 1, 2))(*arguments)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    jax.tree.map(check, ours, expected)


@pytest.mark.parametrize("name", WRITTEN_OUT)
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

    double = [jax.grad(functools.partial(slope, each))(variables) for each in (layer, generic)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), double[0], double[1]
    )
    _, forward = jax.jvp(ahead, (variables,), (direction,))
    np.testing.assert_allclose(forward, slope(layer, variables), rtol=1e-10)


@pytest.mark.parametrize("name", ["lstm", "gru", "mut3"])
def test_a_gradient_is_that_of_finite_differences(x64, name):
    from jax.test_util import check_grads

    layer, *arguments, loss = case(name, "mask_reset")
    check_grads(functools.partial(loss, layer), arguments, order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7, 9])
@pytest.mark.parametrize("name", ["lstm", "mut3"])
def test_chunks_change_memory_and_nothing_else(x64, name, chunk):
    layer, *arguments, loss = case(name, "mask_reset", reverse=True)
    chunked = layer.clone(chunk=chunk)
    ours = jax.value_and_grad(functools.partial(loss, chunked), (0, 1, 2))(*arguments)
    expected = jax.value_and_grad(functools.partial(loss, layer), (0, 1, 2))(*arguments)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    jax.tree.map(check, ours, expected)


def test_chunks_keep_only_the_states_at_their_borders():
    layer, inputs = RNN(LSTMCell(8)), jnp.zeros((2, 256, 3))
    variables = layer.init(jax.random.key(0), inputs)

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
        value, gradient = jax.value_and_grad(loss, 1)(variables, broken)
        np.testing.assert_allclose(value, loss(variables, inputs), rtol=1e-12)
        assert jnp.isfinite(gradient).all(), name


def test_the_forget_bias_and_the_orthogonal_blocks_are_as_documented():
    params = LSTMCell(4).init(
        jax.random.key(0), LSTMCell(4).initialize_carry(None, (1, 3)), jnp.ones((1, 3))
    )
    params = params["params"]
    np.testing.assert_array_equal(params["bias"], [0] * 4 + [1] * 4 + [0] * 8)
    for block in jnp.split(params["recurrent_kernel"], 4, axis=1):
        np.testing.assert_allclose(block.T @ block, jnp.eye(4), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "flags", "message"),
    [
        ((2, 5), {}, r"RNN expects inputs \[B, T, F\], got \[2, 5\]"),
        (
            (2, 5, 3),
            {"mask": np.ones((2, 4), bool)},
            r"expects mask bool\[2, 5\], got bool\[2, 4\]",
        ),
        ((2, 5, 3), {"mask": np.ones((2, 5))}, r"expects mask bool\[2, 5\], got float64"),
        ((2, 5, 3), {"reset": np.ones((2, 5), int)}, r"expects reset bool\[2, 5\], got int64"),
        ((2, 0, 3), {}, r"with T of at least 1, got \[2, 0, 3\]; drop empty sequences"),
        (
            (2, 5, 3),
            {"initial_carry": (np.zeros((2, 4)), np.zeros((2, 4)))},
            r"an initial_carry of VanillaCell with shapes \(2, 4\), got \(\(2, 4\), \(2, 4\)\)",
        ),
    ],
)
def test_mistakes_are_named(inputs, flags, message):
    layer = RNN(VanillaCell(4))
    with pytest.raises(UserError, match=message):
        layer.init(jax.random.key(0), np.zeros(inputs, np.float32), **flags)


def test_tokens_are_to_be_embedded_first():
    with pytest.raises(UserError, match=r"got int32\[2, 5, 3\]; embed tokens or one-hot them"):
        RNN(VanillaCell(4)).init(jax.random.key(0), np.zeros((2, 5, 3), np.int32))


TORCH_BLOCKS = {"lstm": (0, 1, 3, 2), "gru_reset_after": (0, 1, 2), "vanilla": (0,)}


@pytest.mark.parity
@pytest.mark.parametrize("name", TORCH_BLOCKS)
def test_values_and_gradients_equal_torch(x64, torch, name):
    twin = {"lstm": torch.nn.LSTM, "gru_reset_after": torch.nn.GRU, "vanilla": torch.nn.RNN}[name]
    theirs = twin(3, 4, batch_first=True, dtype=torch.float64)
    blocks = TORCH_BLOCKS[name]

    def reorder(array):
        parts = np.split(array.detach().numpy(), len(blocks))
        return np.concatenate([parts[index] for index in blocks])

    bias_ih, bias_hh = reorder(theirs.bias_ih_l0), reorder(theirs.bias_hh_l0)
    params = {
        "kernel": reorder(theirs.weight_ih_l0).T,
        "recurrent_kernel": reorder(theirs.weight_hh_l0).T,
        "bias": bias_ih + bias_hh,
    }
    if name == "gru_reset_after":
        params["bias"] = bias_ih + np.concatenate([bias_hh[:8], np.zeros(4)])
        params["bias_hn"] = bias_hh[8:]
    inputs = np.random.default_rng(0).normal(size=(2, 5, 3))

    def loss(params):
        return jnp.sin(RNN(CELLS[name](4)).apply({"params": {"cell": params}}, inputs)[1]).sum()

    value, gradient = jax.value_and_grad(loss)(params)
    expected = torch.sin(theirs(torch.tensor(inputs))[0]).sum()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient["kernel"], reorder(theirs.weight_ih_l0.grad).T, rtol=1e-10)
    np.testing.assert_allclose(
        gradient["recurrent_kernel"], reorder(theirs.weight_hh_l0.grad).T, rtol=1e-10
    )


class LinearCell(Cell):
    """`h_t = W h_{t-1} + x_t`."""

    @nn.compact
    def weights(self, input_features):
        return self.param("W", nn.initializers.orthogonal(), (self.features, self.features))

    @nn.nowrap
    def step(self, w, carry, projected):
        h = carry @ w.T + projected
        return h, h


@pytest.mark.parametrize(("scale", "expected"), [(0.9, 0.0051538), (1.1, 117.3909)])
def test_a_gradient_through_fifty_linear_steps_vanishes_or_explodes_by_the_power(
    x64, scale, expected
):
    layer = RNN(LinearCell(4, param_dtype=jnp.float64))
    inputs = jnp.zeros((1, 50, 4))
    W = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    variables = {"params": {"cell": {"W": jnp.asarray(scale * W)}}}

    def last(h0):
        return layer.apply(variables, inputs, initial_carry=h0)[0]

    _, back = jax.vjp(last, jnp.zeros((1, 4)))
    norm = jnp.linalg.norm(back(jnp.array([[1.0, 0, 0, 0]]))[0])
    np.testing.assert_allclose(norm, expected, rtol=1e-5)

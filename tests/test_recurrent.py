"""Drivers against loops over single sequences, Flax and torch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.recurrent import (
    RNN,
    Bidirectional,
    GRUCell,
    LSTMCell,
    RecurrentHighwayCell,
    Stacked,
    VanillaCell,
    lengths_to_mask,
)
from nn_lib.recurrent.cell import Cell
from tests.cells import CELLS, every_cell


@pytest.mark.parametrize("name", every_cell())
def test_our_driver_equals_flaxs_driver(x64, name):
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 4))
    layer, twin = RNN(CELLS[name](4)), nn.RNN(CELLS[name](4), return_carry=True)
    variables = jax.jit(layer.init)(jax.random.key(1), inputs)
    carry, outputs = jax.jit(layer.apply)(variables, inputs)
    their_carry, theirs = jax.jit(twin.apply)(variables, inputs)
    np.testing.assert_allclose(outputs, theirs, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), carry, their_carry)


def test_flaxs_cells_run_in_our_driver_under_masks_and_resets(x64):
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 3))
    ours = RNN(nn.GRUCell(4, param_dtype=jnp.float64))
    variables = jax.jit(ours.init)(jax.random.key(1), inputs)
    _, plain = ours.apply(variables, inputs)
    theirs = nn.RNN(nn.GRUCell(4, param_dtype=jnp.float64)).apply(variables, inputs)
    np.testing.assert_allclose(plain, theirs, rtol=1e-12)
    mask = jnp.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    carry, outputs = ours.apply(variables, inputs, mask=mask)
    np.testing.assert_allclose(outputs[0], jnp.where(mask[0, :, None], plain[0], 0), rtol=1e-12)
    np.testing.assert_allclose(carry[0], plain[0, 1], rtol=1e-12)


# Written-out gradients and one generic scan; test_module_table.py has masks for every module.
PADDED = [("vanilla", False), ("gru", False), ("lstm", True), ("mut3", False)]
PADDED += [
    pytest.param(name, reverse, marks=pytest.mark.slow)
    for name in CELLS
    for reverse in (False, True)
    if (name, reverse) not in PADDED
]


@pytest.mark.parametrize(("name", "reverse"), PADDED)
def test_a_padded_batch_equals_the_loop_over_single_sequences(x64, name, reverse):
    lengths, width = jnp.array([5, 2, 0]), 5
    inputs = jax.random.normal(jax.random.key(0), (3, width, 4))
    layer = RNN(CELLS[name](4), reverse=reverse)
    variables = jax.jit(layer.init)(jax.random.key(1), inputs)
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

    value, gradient = jax.jit(jax.value_and_grad(padded))(variables)
    expected, expected_gradient = jax.jit(jax.value_and_grad(looped))(variables)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
        gradient,
        expected_gradient,
    )


@pytest.mark.parametrize("name", every_cell())
def test_a_reset_begins_a_new_sequence(x64, name):
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 4))
    layer = RNN(CELLS[name](4))
    variables = jax.jit(layer.init)(jax.random.key(1), inputs)
    reset = jnp.zeros((2, 6), bool).at[0, 4].set(True)
    apply = jax.jit(layer.apply)
    _, outputs = apply(variables, inputs, reset=reset)
    _, plain = apply(variables, inputs, reset=jnp.zeros_like(reset))
    _, tail = apply(variables, inputs[:, 4:])
    np.testing.assert_allclose(outputs[1], plain[1], rtol=1e-12)
    np.testing.assert_allclose(outputs[0, :4], plain[0, :4], rtol=1e-12)
    np.testing.assert_allclose(outputs[0, 4:], tail[0], rtol=1e-12)


def test_two_windows_with_carried_state_are_one_long_window(x64):
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    layer = Stacked([RNN(CELLS["lstm"](4)), RNN(CELLS["gru"](5))])
    variables = jax.jit(layer.init)(jax.random.key(1), inputs)
    apply = jax.jit(layer.apply)
    _, whole = apply(variables, inputs)
    carry, first = apply(variables, inputs[:, :4])
    _, second = apply(variables, inputs[:, 4:], initial_carry=carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, rtol=1e-12)


def test_both_directions_see_the_right_end_of_each_sequence(x64):
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 3))
    layer = Bidirectional(RNN(CELLS["gru"](4)), RNN(CELLS["gru"](4), reverse=True))
    variables = jax.jit(layer.init)(jax.random.key(1), inputs)
    mask = lengths_to_mask(jnp.array([3, 5]), 5)
    apply = jax.jit(layer.apply)
    _, outputs = apply(variables, inputs, mask=mask)
    _, alone = apply(variables, inputs[:1, :3])
    np.testing.assert_allclose(outputs[0, :3], alone[0], rtol=1e-12)
    assert not outputs[0, 3:].any()


def test_residuals_add_the_inputs_of_layers_of_one_width_where_the_mask_holds(x64):
    layers = [RNN(CELLS["gru"](4)), RNN(CELLS["lstm"](4)), RNN(CELLS["gru"](3))]
    stack = Stacked(layers, residual=True)
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 4))
    mask = lengths_to_mask(jnp.array([5, 2]), 5)
    variables = jax.jit(stack.init)(jax.random.key(1), inputs)
    _, outputs = jax.jit(stack.apply)(variables, inputs, mask=mask)
    below = inputs
    for index, layer in enumerate(layers):
        params = {"params": variables["params"][f"layers_{index}"]}
        _, above = jax.jit(layer.apply)(params, below, mask=mask)
        below = above + below * mask[..., None] if index < 2 else above
    np.testing.assert_allclose(outputs, below, rtol=1e-12)
    assert not outputs[1, 2:].any()


def test_the_learned_initial_carry_is_a_parameter_with_a_gradient():
    inputs = jnp.ones((2, 3, 3))
    layer = RNN(LSTMCell(4), learned_initial_carry=True)
    variables = jax.jit(layer.init)(jax.random.key(0), inputs)
    gradient = jax.jit(jax.grad(lambda v: layer.apply(v, inputs)[1].sum()))(variables)
    assert all(jnp.abs(leaf).max() > 0 for leaf in gradient["params"]["initial_carry"])


@pytest.mark.parametrize("name", ["vanilla", "lstm", "gru", "mut1", "nas"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(name):
    inputs = jax.random.normal(jax.random.key(0), (2, 5, 4))
    cell = CELLS[name](4).clone(param_dtype=jnp.float32)
    layer = RNN(cell.clone(dtype=jnp.bfloat16))
    variables = jax.jit(layer.init)(jax.random.key(1), inputs)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    carry, outputs = jax.jit(layer.apply)(variables, inputs)
    assert outputs.dtype == jnp.bfloat16
    # What adds up over the steps is float32: see test_long_states.
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype(jnp.float32)}
    _, exact = jax.jit(RNN(cell).apply)(variables, inputs)
    np.testing.assert_allclose(outputs.astype(jnp.float32), exact, atol=0.03)


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


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: RNN(VanillaCell), "RNN expects a cell, as in .*, got the class VanillaCell"),
        (lambda: RNN(RNN(VanillaCell(4))), "RNN expects a cell, as in .*, got RNN"),
        (lambda: RNN(VanillaCell(4), chunk=2.5), "expects chunk, steps, or 0 for none, got 2.5"),
        (lambda: RNN(VanillaCell(0)), "VanillaCell expects features, a whole number of .*, got 0"),
        (lambda: RNN(LSTMCell(4.0)), "LSTMCell expects features, a whole number of .*, got 4.0"),
        (lambda: RNN(RecurrentHighwayCell(4, depth=0)), "Cell expects depth, .* at least 1, got 0"),
        (lambda: Stacked([VanillaCell(4)]), r"Stacked expects layers, got the cell VanillaCell; "),
        (
            lambda: Bidirectional(RNN(VanillaCell(4)), RNN(VanillaCell(4))),
            "a forward layer and a backward one, .*, got reverse=False and reverse=False",
        ),
    ],
)
def test_layers_that_cannot_be_meant_are_named(layer, message):
    with pytest.raises(UserError, match=message) as caught:
        layer().init(jax.random.key(0), jnp.ones((2, 5, 3)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cell", [GRUCell(4), nn.GRUCell(4)])
def test_inputs_of_another_width_than_in_init_are_named(cell):
    layer = RNN(cell)
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.ones((2, 5, 3)))
    with pytest.raises(UserError, match=r"GRUCell expects inputs as wide as .*, got F = 6"):
        layer.apply(variables, jnp.ones((2, 5, 6)))


@pytest.mark.parametrize(
    ("carry", "inputs", "message"),
    [
        (np.zeros((2, 4)), np.ones((2, 3)), r"of LSTMCell with shapes \(\(2, 4\), \(2, 4\)\)"),
        ([np.zeros((2, 4))] * 2, np.ones((2, 3)), r"a tuple of 2 arrays, got a list"),
        ((np.zeros((2, 4)),) * 2, np.ones((2, 3), int), "floating-point inputs, got int"),
        ((np.zeros((2, 4)),) * 2, np.ones((2, 6)), "made for, F = 3, got F = 6"),
    ],
)
def test_a_cell_by_itself_names_mistakes_too(carry, inputs, message):
    cell, zeros = LSTMCell(4), jnp.zeros((2, 4))
    variables = jax.jit(cell.init)(jax.random.key(0), (zeros, zeros), jnp.ones((2, 3)))
    with pytest.raises(UserError, match=message):
        cell.apply(variables, carry, inputs)


def test_lists_are_inputs_too():
    layer = RNN(VanillaCell(2))
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 2, 1)))
    listed = [[[1.0], [2.0]]]
    found, expected = (layer.apply(variables, x)[1] for x in (listed, jnp.array(listed)))
    np.testing.assert_array_equal(found, expected)


def test_a_carry_is_needed_for_every_layer():
    stack = Stacked([RNN(VanillaCell(4)), RNN(VanillaCell(4)), RNN(VanillaCell(4))])
    x, h = jnp.ones((2, 5, 4)), jnp.zeros((2, 4))
    with pytest.raises(UserError, match="of 3 carries, one for every layer, got a tuple of 2"):
        stack.init(jax.random.key(0), x, initial_carry=(h, h))
    both = Bidirectional(RNN(VanillaCell(4)), RNN(VanillaCell(4), reverse=True))
    with pytest.raises(UserError, match="Bidirectional expects an initial_carry of 2 carries"):
        both.init(jax.random.key(0), x, initial_carry=h)


@pytest.mark.parametrize("cell", [LSTMCell(4), GRUCell(4)])
def test_inputs_of_another_width_than_the_parameters_are_named(cell):
    layer = RNN(cell)
    variables = jax.jit(layer.init)(jax.random.key(0), jnp.ones((2, 5, 4)))
    with pytest.raises(UserError, match=r"made for, F = 4, got F = 7; use the inputs of init"):
        layer.apply(variables, jnp.ones((2, 5, 7)))
    with pytest.raises(UserError, match="expects chunk, steps, or 0 for none, got -3"):
        layer.clone(chunk=-3).apply(variables, jnp.ones((2, 5, 4)))


def test_lists_are_masks_too():
    layer, x = RNN(VanillaCell(4)), jnp.ones((2, 3, 4))
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    _, found = layer.apply(variables, x, mask=[[True, True, False], [True, False, False]])
    _, expected = layer.apply(variables, x, mask=lengths_to_mask([2, 1], 3))
    np.testing.assert_array_equal(found, expected)


def test_a_subclass_with_a_step_of_its_own_runs_that_step():
    class Sevens(LSTMCell):
        def step(self, w, carry, projected):
            carry, h = super().step(w, carry, projected)
            return carry, jnp.full_like(h, 7)

    layer, x = RNN(Sevens(4)), jnp.ones((2, 3, 4))
    _, outputs = layer.apply(layer.init(jax.random.key(0), x), x)
    assert (outputs == 7).all()


@pytest.mark.parametrize(
    "name",
    ["gru", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lstm", "recurrent_highway"))],
)
def test_parameters_may_be_half_precision(name):
    layer, x = (
        RNN(CELLS[name](4).clone(param_dtype=jnp.bfloat16)),
        jnp.ones((2, 3, 4), jnp.bfloat16),
    )
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    loss = lambda v: layer.apply(v, x)[1].astype(jnp.float32).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, gradient))} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_tokens_are_to_be_embedded_first():
    with pytest.raises(UserError, match=r"got int32\[2, 5, 3\]; embed tokens or one-hot them"):
        RNN(VanillaCell(4)).init(jax.random.key(0), np.zeros((2, 5, 3), np.int32))


TORCH_BLOCKS = {"lstm": (0, 1, 3, 2), "gru_reset_after": (0, 1, 2), "vanilla": (0,)}


@pytest.mark.slow
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

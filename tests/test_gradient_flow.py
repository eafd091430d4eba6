"""Gradients through time and depth against the lecture's terms, powers of a matrix, and chains."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.analysis import gradient_flow as flow
from nn_lib.checks import UserError
from nn_lib.layers.initializers import scaled_orthogonal
from nn_lib.models import MLP, SequenceClassifier
from nn_lib.recurrent import RNN, Bidirectional, GRUCell, LSTMCell, Stacked, VanillaCell
from nn_lib.recurrent import from_equations as weights_of
from tests.cells import CELLS

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def test_the_terms_of_a_weights_gradient_are_the_lectures(x64):
    cell = VanillaCell(1)
    one = {"W_hh": np.array([[0.8]]), "W_xh": np.array([[0.5]]), "b_h": np.zeros(1)}
    inputs = jnp.array([1, -1, 0.5])[None, :, None]
    terms = flow.weight_terms(cell, weights_of(cell, **one), inputs, lambda h: h[:, 0, 0], 2)
    expected = [0, 0.35581229, -0.12683796]
    np.testing.assert_allclose(terms["recurrent_kernel"].ravel(), expected, atol=1e-8)
    norms = flow.weight_term_norms(cell, weights_of(cell, **one), inputs, lambda h: h[:, 0, 0])
    np.testing.assert_allclose(norms["recurrent_kernel"][2], np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(norms["recurrent_kernel"][1], [0, 0.45435851, 0], atol=1e-8)


@pytest.mark.parametrize("name", ["lstm", slow("gru"), slow("nas")])
def test_the_terms_add_up_to_the_gradient(x64, name):
    cell, inputs = CELLS[name](4), jax.random.normal(jax.random.key(0), (2, 5, 4))
    variables = jax.jit(RNN(cell).init)(jax.random.key(1), inputs)["params"]["cell"]

    def error(outputs):
        return (outputs**2).sum((1, 2))

    def last(params):
        _, outputs = RNN(cell).apply({"params": {"cell": params}}, inputs)
        return error(jnp.swapaxes(outputs, 0, 1))[3]

    terms = flow.weight_terms(cell, {"params": variables}, inputs, error, 3)
    gradient = jax.grad(last)(variables)
    for weight in ("kernel", "recurrent_kernel", "bias"):
        assert not terms[weight][4].any()  # a later step
        np.testing.assert_allclose(terms[weight].sum(0), gradient[weight], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lstm", slow("mut3")])
def test_a_states_gradient_is_that_of_the_carry_of_what_follows(x64, name, reverse):
    layer, inputs = (
        RNN(CELLS[name](4), reverse=reverse),
        jax.random.normal(jax.random.key(0), (2, 5, 3)),
    )
    variables = jax.jit(layer.init)(jax.random.key(1), inputs)
    weight = jax.random.normal(jax.random.key(2), (2, 5, 4))

    def whole(variables):
        return (layer.apply(variables, inputs)[1] * weight).sum()

    found = flow.state_gradients(whole, variables)[""]
    then = slice(None, 2) if reverse else slice(3, None)
    here = 2

    def rest(carry):
        _, outputs = layer.apply(variables, inputs[:, then], initial_carry=carry)
        now = layer.cell.exposed(carry)
        return (outputs * weight[:, then]).sum() + (now * weight[:, here]).sum()

    before = slice(here, None) if reverse else slice(None, here + 1)
    carry, _ = layer.apply(variables, inputs[:, before])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:, here], b, rtol=1e-10),
        found,
        jax.grad(rest)(carry),
    )


def test_a_jitted_loss_and_tiny_gradients_are_no_obstacle():
    layer, inputs = RNN(GRUCell(3)), jnp.ones((2, 4, 3))
    variables = jax.jit(layer.init)(jax.random.key(0), inputs)
    loss = jax.jit(lambda v: 1e-25 * layer.apply(v, inputs)[1].sum())
    loss(variables)
    norms = flow.norms_over_time(flow.state_gradients(loss, variables)[""])
    whole = flow.norms_over_time(
        flow.state_gradients(lambda v: layer.apply(v, inputs=inputs)[1].sum(), variables)[""]
    )
    np.testing.assert_allclose(norms, 1e-25 * whole, rtol=1e-5)


def test_layers_within_the_scan_of_a_foreign_cell_are_left_out():
    model = SequenceClassifier(RNN(nn.GRUCell(4)), num_classes=2)
    inputs = jnp.ones((2, 4, 3))
    variables = jax.jit(model.init)(jax.random.key(0), inputs)

    def loss(variables):
        return model.apply(variables, inputs)[0].sum()

    assert list(flow.layer_gradients(loss, variables)) == ["Dense_0"]
    with pytest.raises(UserError, match="the states of a GRUCell cannot be perturbed"):
        flow.state_gradients(loss, variables)


def test_every_recurrent_layer_of_a_model_is_found():
    cells = GRUCell(3), LSTMCell(4), LSTMCell(4)
    stack = Stacked([RNN(cells[0]), Bidirectional(RNN(cells[1]), RNN(cells[2], reverse=True))])
    model = SequenceClassifier(stack, num_classes=5)
    inputs = jnp.ones((2, 6, 3))
    variables = jax.jit(model.init)(jax.random.key(0), inputs)

    def loss(variables):
        return (model.apply(variables, inputs)[0] ** 2).sum()

    found = flow.state_gradients(loss, variables)
    assert list(found) == [
        "layer/layers_0",
        "layer/layers_1/forward",
        "layer/layers_1/backward",
    ]
    assert flow.norms_over_time(found["layer/layers_0"]).shape == (6,)
    # The last output reads the last state of the forward pass, all of the one below.
    assert (flow.norms_over_time(found["layer/layers_0"]) > 0).all()
    mlp, x = MLP((3,)), jnp.ones((1, 2))
    with pytest.raises(UserError, match="no RNN in this model"):
        flow.state_gradients(lambda v: mlp.apply(v, x).sum(), mlp.init(jax.random.key(0), x))


@pytest.mark.parametrize("gain", [0.9, 1.1])
def test_products_of_an_orthogonal_matrix_shrink_and_grow_by_its_power(x64, gain):
    init = functools.partial(scaled_orthogonal, scale=gain)
    cell = VanillaCell(4, activation=lambda x: x, recurrent_kernel_init=init)
    cell = cell.clone(param_dtype=jnp.float64)
    inputs = jnp.zeros((1, 50, 2))
    variables = {"params": RNN(cell).init(jax.random.key(0), inputs)["params"]["cell"]}
    values = flow.product_singular_values(flow.jacobians(cell, variables, inputs[0]))
    np.testing.assert_allclose(values, gain ** np.arange(1, 51)[:, None] * np.ones(4), rtol=1e-9)
    (spectrum,) = flow.spectra(cell, variables)
    np.testing.assert_allclose(np.abs(spectrum["eigenvalues"]), gain, rtol=1e-9)
    np.testing.assert_allclose(spectrum["singular_values"], gain, rtol=1e-9)


def test_the_carousel_is_a_singular_value_of_one_where_the_paths_through_h_are_cut(x64):
    cell = LSTMCell(3, gates="no_forget")
    symbols = {"W": np.zeros((9, 5)), "b": np.zeros(9)}
    jacobians = flow.jacobians(cell, weights_of(cell, **symbols), jnp.zeros((20, 2)))
    assert jacobians.shape == (20, 6, 6)
    values = flow.product_singular_values(jacobians)
    # c is handed on as it is, and shows in h as o tanh'(c) = 1/2 of it; h is handed to nothing.
    expected = np.broadcast_to([*[(1 + 0.25) ** 0.5] * 3, 0, 0, 0], (20, 6))
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_a_layers_gradient_is_the_chain_of_the_layers_above(x64):
    layers = [nn.Dense(4), jnp.tanh, nn.Dense(4), jnp.tanh, nn.Dense(3)]
    model = nn.Sequential(layers)
    inputs = jax.random.normal(jax.random.key(0), (5, 2))
    variables = jax.tree.map(jnp.float64, jax.jit(model.init)(jax.random.key(1), inputs))

    def loss(variables):
        return (model.apply(variables, inputs) ** 2).sum() / 2

    found = flow.layer_gradients(loss, variables)
    p = variables["params"]
    names = sorted(p)
    assert list(found) == names

    def affine(x, name):
        return x @ p[name]["kernel"] + p[name]["bias"]

    a0 = affine(inputs, names[0])
    a1 = affine(np.tanh(a0), names[1])
    d2 = affine(np.tanh(a1), names[2])
    d1 = d2 @ p[names[2]]["kernel"].T * (1 - np.tanh(a1) ** 2)
    d0 = d1 @ p[names[1]]["kernel"].T * (1 - np.tanh(a0) ** 2)
    for name, expected in zip(names, (d0, d1, d2)):
        np.testing.assert_allclose(found[name], expected, rtol=1e-10)

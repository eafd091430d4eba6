"""min-char-rnn on "hello": its loss, its gradients, its update, its clipping, by the framework."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nn_lib.models import CharLM
from nn_lib.objectives import next_token
from nn_lib.optim import OptimizerConfig, build_optimizer
from nn_lib.recurrent import VanillaCell, from_equations, to_equations
from tests.conftest import F

MODEL = CharLM(4, VanillaCell(3))
TOKENS = np.array([[0, 1, 2, 2, 3]], np.int32)  # h, e, l, l, o
BATCH = {
    "inputs": TOKENS[:, :-1],
    "targets": TOKENS[:, 1:],
    "reset": np.zeros((1, 4), bool),
    "mask": np.ones((1, 4), bool),
}


def parameters(gain=1.0):
    symbols = {"W_xh": F((3, 4), 1, 0.5), "W_hh": F((3, 3), 20, 0.5), "b_h": np.zeros(3)}
    cell = from_equations(MODEL.cell, **symbols)["params"]
    output = {"kernel": gain * F((4, 3), 40, 0.5).T, "bias": np.zeros(4)}
    return jax.tree.map(jnp.asarray, {"recurrent": {"layers_0": {"cell": cell}}, "output": output})


def loss_of(params):
    """The sum over the steps, as the listing has it; the framework's is the mean."""
    carry = (jnp.zeros((1, 3)),)
    loss, _, _, (h,) = next_token(MODEL, {"params": params}, BATCH, {}, carry, True)
    return 4 * loss, h


def in_symbols(params):
    """The five matrices under the listing's names."""
    found = to_equations(MODEL.cell, {"params": params["recurrent"]["layers_0"]["cell"]})
    output = params["output"]
    names = {"Wxh": "W_xh", "Whh": "W_hh", "bh": "b_h"}
    listed = {name: found[symbol] for name, symbol in names.items()}
    return listed | {"Why": np.asarray(output["kernel"]).T, "by": np.asarray(output["bias"])}


def test_loss_gradients_and_last_state_of_hello(x64):
    (loss, h), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters())
    d = in_symbols(gradient)

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)

    close(loss, 5.44085031)
    close(h[0], [0.25507859, 0.16514481, -0.35387547])
    close(d["Whh"][0], [-0.13601377, 0.28992193, -0.19246331])
    close(d["Whh"][1], [-0.05570395, 0.07347570, -0.02998187])
    close(d["Whh"][2], [0.08628642, -0.22053863, 0.16625477])
    close(d["Wxh"][0], [0.35753026, -0.30910960, 0.23318938, 0])
    close(d["bh"], [0.28161003, -0.09536009, -0.39728586])
    close(d["by"], [1.21550141, -0.22029879, -0.78015963, -0.21504299])


def test_one_step_of_its_adagrad_lowers_the_loss_as_the_listing_does(x64):
    params = parameters()
    gradient = jax.grad(loss_of, has_aux=True)(params)[0]
    config = OptimizerConfig(
        name="adagrad", variant="min_char_rnn", learning_rate=0.1, epsilon=1e-8, clip_value=5.0
    )
    optimizer, _ = build_optimizer(config)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(
        loss_of(optax.apply_updates(params, updates))[0], 4.74102907, rtol=0, atol=1e-8
    )
    # Every touched parameter moves by the rate, against the sign of its gradient.
    touched = jax.tree.map(lambda g: jnp.abs(g) > 1e-3, gradient)
    expected = jax.tree.map(lambda g, t: jnp.where(t, -0.1 * jnp.sign(g), 0), gradient, touched)
    found = jax.tree.map(lambda u, t: jnp.where(t, u, 0), updates, touched)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), found, expected)


def test_clipping_touches_the_entries_that_the_listing_clips(x64):
    params = parameters(gain=20.0)
    (loss, _), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    np.testing.assert_allclose(loss, 16.33558828, rtol=0, atol=1e-8)
    raw = in_symbols(gradient)
    for name, largest in (("Wxh", 17.58064), ("Whh", 7.23159), ("bh", 31.91967)):
        np.testing.assert_allclose(np.abs(raw[name]).max(), largest, rtol=0, atol=1e-5)
    clip = optax.clip(5.0)
    clipped = in_symbols(clip.update(gradient, clip.init(params))[0])
    counts = {name: int((raw[name] != clipped[name]).sum()) for name in raw}
    assert counts == {"Wxh": 4, "Whh": 2, "Why": 0, "bh": 2, "by": 0}


@pytest.mark.parametrize(
    ("vocabulary", "expected"), [(4, 34.65736), (26, 81.45241), (65, 104.35968)]
)
def test_the_smooth_loss_begins_at_that_of_chance(vocabulary, expected):
    """25 steps of a model that knows nothing."""
    model = CharLM(vocabulary, VanillaCell(3))
    tokens = np.zeros((1, 25), np.int32)
    variables = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(jax.random.key(0), tokens))
    batch = {
        "inputs": tokens,
        "targets": tokens,
        "reset": np.zeros((1, 25), bool),
        "mask": np.ones((1, 25), bool),
    }
    loss, *_ = next_token(model, variables, batch, {}, model.initialize_carry(1), True)
    np.testing.assert_allclose(25 * loss, expected, rtol=1e-6)

"""The training step: the update by hand, skipped steps, no retracing, truncated windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib import metrics, objectives
from nn_lib.models import MLP, CharLM, ConvNet, Linear
from nn_lib.optim import OptimizerConfig, build_optimizer
from nn_lib.recurrent import LSTMCell
from nn_lib.train.state import create_state
from nn_lib.train.step import make_eval_step, make_train_step

RNG = np.random.default_rng(0)
BATCH = {
    "inputs": RNG.normal(size=(6, 4)).astype(np.float32),
    "labels": np.array([0, 1, 2, 0, 1, 2]),
    "mask": np.array([True] * 5 + [False]),
}


def make(model=None, batch=BATCH, objective=objectives.classify, carry=None, **config):
    model = model or Linear(num_classes=3)
    optimizer, schedule = build_optimizer(
        OptimizerConfig(**{"name": "sgd", "learning_rate": 0.1, **config})
    )
    state = create_state(model, objective, optimizer, batch, carry, seed=0)
    return state, make_train_step(model, objective, optimizer, schedule, log_every=2)


def test_one_step_of_sgd_is_the_update_by_hand_over_unmasked_examples():
    state, step = make()
    W, b = jax.tree.leaves(state.params)[::-1]
    x, y = BATCH["inputs"][:5].astype(float), BATCH["labels"][:5]
    z = x @ np.array(W, float) + np.array(b, float)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    error = (p - np.eye(3)[y]) / 5  # softmax cross-entropy: p - y
    after, report = jax.jit(step)(state, BATCH)
    new_b, new_W = jax.tree.leaves(after.params)
    np.testing.assert_allclose(new_W, W - 0.1 * x.T @ error, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new_b, b - 0.1 * error.sum(0), rtol=1e-4, atol=1e-6)
    norm = np.sqrt((x.T @ error).__pow__(2).sum() + (error.sum(0) ** 2).sum())
    means = metrics.means(after.metrics)
    assert metrics.means(dict(zip(sorted(means), report["metrics"]))) == means
    assert float(report["learning_rate"]) == np.float32(0.1)
    np.testing.assert_allclose(means["gradient_norm"], norm, rtol=1e-4)
    weights = np.sqrt((np.array(W) ** 2).sum() + (np.array(b) ** 2).sum())
    np.testing.assert_allclose(means["update_to_weight"], 0.1 * norm / weights, rtol=1e-4)
    np.testing.assert_allclose(means["loss"], -np.log(p[range(5), y]).mean(), rtol=1e-4)


def test_metrics_add_up_between_two_lines_and_start_anew_after():
    state, step = make()
    step = jax.jit(step)
    counts = []
    for _ in range(4):
        state, _ = step(state, BATCH)
        counts.append(float(state.metrics["accuracy"][1]))
    assert counts == [5, 10, 5, 10]


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    state, step = make(
        ConvNet((4,), ((3,),), (1,), num_classes=3, batch_norm=True), SIGNALS, name="adam"
    )
    step = jax.jit(step)
    state, _ = step(state, SIGNALS)
    poisoned = {**SIGNALS, "inputs": SIGNALS["inputs"].copy()}
    poisoned["inputs"][0, 0] = np.nan
    after, _ = step(step(state, poisoned)[0], poisoned)
    for part in ("params", "model_state", "opt_state"):
        before = getattr(state, part)
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), before)
    assert (int(after.step), int(after.bad_steps), int(after.skipped_steps)) == (3, 2, 2)
    healed, _ = step(after, SIGNALS)
    assert (int(healed.bad_steps), int(healed.skipped_steps)) == (0, 2)
    assert metrics.means(healed.metrics)["loss"] > 0  # no NaN has entered the sums


SIGNALS = {**BATCH, "inputs": RNG.normal(size=(6, 4, 1)).astype(np.float32)}


def test_noise_follows_the_step_not_the_history():
    state, step = make(MLP((16,), num_classes=3, dropout=0.5))
    step = jax.jit(step)
    one, again = step(state, BATCH)[0], step(state, BATCH)[0]
    jax.tree.map(np.testing.assert_array_equal, one, again)
    other, _ = step(state.replace(step=state.step + 1), BATCH)
    assert float(other.metrics["loss"][0]) != float(one.metrics["loss"][0])


def test_the_step_compiles_once_and_donates_its_state():
    traces = []
    state, step = make()

    @jax.jit
    def counted(state, batch):
        traces.append(1)
        return step(state, batch)

    for _ in range(3):
        state, _ = counted(state, BATCH)
    assert len(traces) == 1
    donating = jax.jit(step, donate_argnums=0)
    old = state
    donating(state, BATCH)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))


def tokens(length, batch=2):
    text = RNG.integers(0, 7, size=(batch, length + 1))
    flags = np.zeros((batch, length), bool)
    return {"inputs": text[:, :-1], "targets": text[:, 1:], "reset": flags, "mask": ~flags}


def test_the_carry_goes_on_and_the_gradient_stops_at_the_window():
    model, batch = CharLM(7, LSTMCell(4)), tokens(6)
    state, step = make(model, batch, objectives.next_token, model.initialize_carry(2))
    windows = [{k: v[:, a : a + 3] for k, v in batch.items()} for a in (0, 3)]
    after, _ = jax.jit(step)(state, windows[0])
    _, expected = model.apply({"params": state.params}, windows[0]["inputs"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.carry, expected)

    def through(carry):
        arguments = (model, {"params": state.params}, windows[1], {}, carry, True)
        return objectives.next_token(*arguments)[0]

    for leaf in jax.tree.leaves(jax.grad(through)(after.carry)):
        assert not leaf.any()


def test_bits_per_character_of_a_uniform_model_are_log2_of_the_vocabulary():
    model, batch = CharLM(8, LSTMCell(4)), tokens(5)
    variables = model.init(jax.random.key(0), batch["inputs"])
    flat = jax.tree.map(jnp.zeros_like, variables)
    evaluate = jax.jit(make_eval_step(model, objectives.next_token))
    found, _ = evaluate(flat, batch, model.initialize_carry(2))
    assert metrics.means(found)["bits_per_character"] == pytest.approx(3, rel=1e-6)


def test_bytes_become_zero_to_one_where_no_preparation_is_named():
    batch = {**BATCH, "inputs": np.full((6, 4), 255, np.uint8)}
    model = Linear(num_classes=3)
    variables = model.init(jax.random.key(0), np.ones((6, 4), np.float32))
    evaluate = make_eval_step(model, objectives.classify)
    found, _ = evaluate(variables, batch, None)
    ones = {**batch, "inputs": np.ones((6, 4), np.float32)}
    expected, _ = evaluate(variables, ones, None)
    np.testing.assert_allclose(found["loss"][0], expected["loss"][0])

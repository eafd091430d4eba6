"""The training step: the update by hand, skipped steps, no retracing, truncated windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib import metrics, objectives
from nn_lib.data import DataConfig
from nn_lib.models import MLP, CharLM, ConvNet, Linear, MultiHead
from nn_lib.optim import OptimizerConfig, build_optimizer, gradient_params
from nn_lib.recurrent import LSTMCell
from nn_lib.train.state import create_state
from nn_lib.train.step import make_eval_step, make_train_step

RNG = np.random.default_rng(0)
BATCH = {
    "inputs": RNG.normal(size=(6, 4)).astype(np.float32),
    "labels": np.array([0, 1, 2, 0, 1, 2]),
    "mask": np.array([True] * 5 + [False]),
}


def make(
    model=None, batch=BATCH, objective=objectives.classify, carry=None, options=None, **config
):
    model, options = model or Linear(num_classes=3), {"log_every": 2, **(options or {})}
    optimizer, schedule = build_optimizer(
        OptimizerConfig(**{"name": "sgd", "learning_rate": 0.1, **config})
    )
    ema = bool(options.get("ema_decay"))
    state = create_state(model, objective, optimizer, batch, carry, seed=0, ema=ema)
    return state, make_train_step(model, objective, optimizer, schedule, **options)


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

    for leaf in jax.tree.leaves(jax.jit(jax.grad(through))(after.carry)):
        assert not leaf.any()


def test_bits_per_character_of_a_uniform_model_are_log2_of_the_vocabulary():
    model, batch = CharLM(8, LSTMCell(4)), tokens(5)
    variables = jax.jit(model.init)(jax.random.key(0), batch["inputs"])
    flat = jax.tree.map(jnp.zeros_like, variables)
    evaluate = jax.jit(make_eval_step(model, objectives.next_token))
    found, _ = evaluate(flat, batch, model.initialize_carry(2))
    assert metrics.means(found)["bits_per_character"] == pytest.approx(3, rel=1e-6)


def test_bytes_become_zero_to_one_where_no_preparation_is_named():
    batch = {**BATCH, "inputs": np.full((6, 4), 255, np.uint8)}
    model = Linear(num_classes=3)
    variables = jax.jit(model.init)(jax.random.key(0), np.ones((6, 4), np.float32))
    prepare = DataConfig().prepare_batch
    evaluate = jax.jit(make_eval_step(model, objectives.classify, prepare=prepare))
    found, _ = evaluate(variables, batch, None)
    ones = {**batch, "inputs": np.ones((6, 4), np.float32)}
    expected, _ = evaluate(variables, ones, None)
    np.testing.assert_allclose(found["loss"][0], expected["loss"][0])


def leaves_close(ours, theirs, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_accumulated_step_is_the_step_of_the_whole_batch(reduction):
    """With masks that fall unevenly on the parts, and a clip that sees the whole gradient."""
    fields = {"clip_norm": 0.3, "weight_decay": 0.1}
    state, whole = make(MLP((5,), num_classes=3), options={"reduction": reduction}, **fields)
    options = {"reduction": reduction, "accumulation": 3}
    _, parts = make(MLP((5,), num_classes=3), options=options, **fields)
    ours, theirs = jax.jit(parts)(state, BATCH)[0], jax.jit(whole)(state, BATCH)[0]
    leaves_close(ours.params, theirs.params, rtol=1e-5, atol=1e-7)
    leaves_close(ours.metrics, theirs.metrics, rtol=1e-5)


def test_the_carry_of_an_accumulated_step_is_that_of_the_whole_batch():
    model, batch = CharLM(7, LSTMCell(4)), tokens(3, batch=4)
    arguments = (model, batch, objectives.next_token, model.initialize_carry(4))
    state, whole = make(*arguments)
    _, parts = make(*arguments, options={"accumulation": 2})
    ours, theirs = jax.jit(parts)(state, batch)[0], jax.jit(whole)(state, batch)[0]
    leaves_close((ours.carry, ours.params), (theirs.carry, theirs.params), rtol=1e-5, atol=1e-6)


def test_the_sum_of_losses_at_a_rate_is_their_mean_at_the_count_times_the_rate():
    state, mean = make(learning_rate=0.5)
    _, total = make(learning_rate=0.1, options={"reduction": "sum"})
    ours, theirs = (jax.jit(step)(state, BATCH)[0] for step in (mean, total))
    leaves_close(ours.params, theirs.params, rtol=1e-5)


def test_one_batch_step_is_the_sum_of_the_gradients_that_online_steps_take():
    """FACTS of gradient descent: batch g = sum of l'(x_i); online takes them one at a time."""
    state, step = make(learning_rate=1e-4, options={"reduction": "sum"})
    step = jax.jit(step)
    whole = step(state, BATCH)[0]
    moved = jax.tree.map(jnp.zeros_like, state.params)
    for row in range(5):
        one = {name: value[row : row + 1] for name, value in BATCH.items()}
        after = step(state, one)[0]  # from the same parameters each time
        moved = jax.tree.map(lambda m, a, p: m + (a - p), moved, after.params, state.params)
    expected = jax.tree.map(jnp.add, state.params, moved)
    leaves_close(whole.params, expected, rtol=1e-4)


def test_frozen_layers_keep_parameters_and_statistics_bit_for_bit():
    model = ConvNet((4, 4), ((3,), (3,)), (1, 1), num_classes=3, batch_norm=True)
    frozen = ("Conv_0", "BatchNorm_0")
    options = {"frozen": frozen, "ema_decay": 0.9}
    fields = {"name": "momentum", "weight_decay": 0.1, "frozen": frozen}
    state, step = make(model, SIGNALS, options=options, **fields)
    after, step = state, jax.jit(step)
    for _ in range(20):
        after, _ = step(after, SIGNALS)
    for layer in frozen:
        jax.tree.map(np.testing.assert_array_equal, after.params[layer], state.params[layer])
        jax.tree.map(np.testing.assert_array_equal, after.ema[layer], state.params[layer])
    old, new = state.model_state["batch_stats"], after.model_state["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, new["BatchNorm_0"], old["BatchNorm_0"])
    assert not np.array_equal(new["BatchNorm_1"]["mean"], old["BatchNorm_1"]["mean"])
    assert not np.array_equal(after.params["Conv_1"]["kernel"], state.params["Conv_1"]["kernel"])


def test_the_moving_average_weighs_past_parameters_as_printed_and_is_what_is_evaluated():
    decay = 0.8
    state, step = make(options={"ema_decay": decay})
    seen = []
    for _ in range(5):
        state, _ = jax.jit(step)(state, BATCH)
        seen.append(np.asarray(jax.tree.leaves(state.params)[1], float))
    weights = np.array([(1 - decay) * decay ** (4 - i) for i in range(5)])
    expected = sum(w * p for w, p in zip(weights / weights.sum(), seen))
    np.testing.assert_allclose(jax.tree.leaves(state.ema)[1], expected, rtol=1e-5)
    assert state.evaluated["params"] is state.ema


def test_look_ahead_momentum_takes_its_gradient_ahead_of_the_parameters():
    fields = {"name": "nesterov", "momentum": 0.9, "learning_rate": 0.3, "weight_decay": 0.1}
    state, step = make(variant="lookahead", **fields)
    moved, moved_step = make(variant="lecture", **fields)
    for _ in range(4):
        state, _ = jax.jit(step)(state, BATCH)
        moved, _ = jax.jit(moved_step)(moved, BATCH)
    point = gradient_params(state.params, state.opt_state)
    leaves_close(point, moved.params, rtol=1e-4, atol=1e-6)
    assert not np.allclose(jax.tree.leaves(state.params)[1], jax.tree.leaves(moved.params)[1])


def test_each_head_gets_its_own_weighted_loss_and_the_trunk_their_sum():
    model = MultiHead(MLP((5,)), heads=(("a", 3), ("b", 2)))
    batch = {**BATCH, "targets": RNG.normal(size=(6, 2)).astype(np.float32)}
    variables = jax.jit(model.init)(jax.random.key(0), batch["inputs"])

    def gradient(**weights):
        tasks = (
            objectives.Task("a", weight=weights.get("a", 0.0)),
            objectives.Task("b", "targets", "regress", weight=weights.get("b", 0.0)),
        )

        def loss(params):
            arguments = (model, {"params": params}, batch, {}, None, True)
            return objectives.multi_task(*arguments, tasks=tasks)[0]

        return jax.jit(jax.grad(loss))(variables["params"])

    both, a, b = gradient(a=2.0, b=0.5), gradient(a=1.0), gradient(b=1.0)
    expected = jax.tree.map(lambda x, y: 2 * x + 0.5 * y, a, b)
    leaves_close(both, expected, rtol=1e-4, atol=1e-6)
    assert not a["b"]["kernel"].any() and not b["a"]["kernel"].any()

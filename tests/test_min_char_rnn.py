"""min-char-rnn on "hello": its loss, its gradients, its update, its clipping, by the framework."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import min_char_rnn
from nn_lib.models import CharLM
from nn_lib.objectives import next_token
from nn_lib.optim import OptimizerConfig, build_optimizer
from nn_lib.recurrent import VanillaCell, from_equations, to_equations
from nn_lib.train import fit
from nn_lib.train.run import Run
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


differentiate = jax.jit(jax.value_and_grad(loss_of, has_aux=True))


def in_symbols(params):
    """The five matrices under the listing's names."""
    found = to_equations(MODEL.cell, {"params": params["recurrent"]["layers_0"]["cell"]})
    output = params["output"]
    names = {"Wxh": "W_xh", "Whh": "W_hh", "bh": "b_h"}
    listed = {name: found[symbol] for name, symbol in names.items()}
    return listed | {"Why": np.asarray(output["kernel"]).T, "by": np.asarray(output["bias"])}


def test_loss_gradients_and_last_state_of_hello(x64):
    (loss, h), gradient = differentiate(parameters())
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
    _, gradient = differentiate(params)
    config = OptimizerConfig(
        name="adagrad", variant="min_char_rnn", learning_rate=0.1, epsilon=1e-8, clip_value=5.0
    )
    optimizer, _ = build_optimizer(config)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    (loss, _), _ = differentiate(optax.apply_updates(params, updates))
    np.testing.assert_allclose(loss, 4.74102907, rtol=0, atol=1e-8)
    # Every touched parameter moves by the rate, against the sign of its gradient.
    touched = jax.tree.map(lambda g: jnp.abs(g) > 1e-3, gradient)
    expected = jax.tree.map(lambda g, t: jnp.where(t, -0.1 * jnp.sign(g), 0), gradient, touched)
    found = jax.tree.map(lambda u, t: jnp.where(t, u, 0), updates, touched)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), found, expected)


def test_clipping_touches_the_entries_that_the_listing_clips(x64):
    params = parameters(gain=20.0)
    (loss, _), gradient = differentiate(params)
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

    @jax.jit
    def measure(variables):
        return next_token(model, variables, batch, {}, model.initialize_carry(1), True)[0]

    np.testing.assert_allclose(25 * measure(variables), expected, rtol=1e-6)


def listing(data, steps, hidden, length):
    """The corrected listing in NumPy: yields (p, loss, smooth loss) and ends with its matrices."""
    characters = sorted(set(data))
    V, H = len(characters), hidden
    number = {ch: i for i, ch in enumerate(characters)}
    rng = np.random.RandomState(0)
    w = {
        "Wxh": rng.randn(H, V) * 0.01,
        "Whh": rng.randn(H, H) * 0.01,
        "Why": rng.randn(V, H) * 0.01,
        "bh": np.zeros((H, 1)),
        "by": np.zeros((V, 1)),
    }
    first = {name: value.copy() for name, value in w.items()}
    memory = {name: np.zeros_like(value) for name, value in w.items()}
    smooth, p, history = -np.log(1 / V) * length, 0, []
    for n in range(steps):
        if p + length + 1 >= len(data) or n == 0:
            hprev, p = np.zeros((H, 1)), 0
        inputs = [number[ch] for ch in data[p : p + length]]
        targets = [number[ch] for ch in data[p + 1 : p + length + 1]]
        xs, hs, ps, loss = {}, {-1: hprev}, {}, 0.0
        for t in range(length):
            xs[t] = np.zeros((V, 1))
            xs[t][inputs[t]] = 1
            hs[t] = np.tanh(w["Wxh"] @ xs[t] + w["Whh"] @ hs[t - 1] + w["bh"])
            y = w["Why"] @ hs[t] + w["by"]
            ps[t] = np.exp(y) / np.sum(np.exp(y))
            loss += -np.log(ps[t][targets[t], 0])
        d = {name: np.zeros_like(value) for name, value in w.items()}
        dhnext = np.zeros((H, 1))
        for t in reversed(range(length)):
            dy = np.copy(ps[t])
            dy[targets[t]] -= 1
            d["Why"] += dy @ hs[t].T
            d["by"] += dy
            dhraw = (1 - hs[t] * hs[t]) * (w["Why"].T @ dy + dhnext)
            d["bh"] += dhraw
            d["Wxh"] += dhraw @ xs[t].T
            d["Whh"] += dhraw @ hs[t - 1].T
            dhnext = w["Whh"].T @ dhraw
        hprev = hs[length - 1]
        smooth = smooth * 0.999 + loss * 0.001
        history.append((p, loss, smooth))
        for name in w:
            g = np.clip(d[name], -5, 5)
            memory[name] += g * g
            w[name] += -0.1 * g / np.sqrt(memory[name] + 1e-8)
        p += length
    return first, w, history


def test_two_hundred_updates_of_the_config_are_those_of_the_listing(x64, tmp_path):
    """Data order, carried state, loss, smooth loss and every matrix; 103 windows, so it wraps."""
    text = "".join("the quick brown fox jumps over the lazy dog; "[i * i % 45] for i in range(2601))
    (tmp_path / "text.txt").write_text(text)
    config = min_char_rnn.get_config("text")
    config.model = config.model.clone(cell=config.model.cell.clone(features=10))
    config.data = dataclasses.replace(
        config.data,
        path=str(tmp_path / "text.txt"),
        train_split="0:100",
        test_split="",
        validation_split="",
    )
    config.sample_every, config.num_steps, config.log_every = 0, 200, 1
    run = Run.prepare(config)
    first, last, history = listing(text, 200, 10, 25)
    assert [p for p, _, _ in history].count(0) == 2
    state = run.initial_state
    cell = {"W_xh": first["Wxh"], "W_hh": first["Whh"], "b_h": first["bh"][:, 0]}
    params = {
        "recurrent": {
            "layers_0": {"cell": from_equations(run.experiment.model.cell, **cell)["params"]}
        },
        "output": {"kernel": first["Why"].T, "bias": first["by"][:, 0]},
    }
    as_float64 = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float64))
    params = as_float64(params)
    optimizer, _ = build_optimizer(run.experiment.optimizer)
    state = state.replace(
        params=params, opt_state=optimizer.init(params), carry=as_float64(state.carry)
    )
    for step, (p, loss, smooth) in enumerate(history):
        batch = run.batches.at(step)
        assert run.data.vocabulary.decode(batch["inputs"][0]) == text[p : p + 25]
        state, report = run.train_step(state, batch)
        mean = dict(zip(run.metric_names, report["metrics"]))["loss"]
        np.testing.assert_allclose(mean[0], loss, rtol=1e-5)
        np.testing.assert_allclose(report["smooth_loss"], smooth, rtol=1e-5)
    found = in_symbols(state.params)
    for name in ("Wxh", "Whh", "Why"):
        np.testing.assert_allclose(found[name], last[name], rtol=1e-6, atol=1e-8)
    for name in ("bh", "by"):
        np.testing.assert_allclose(found[name], last[name][:, 0], rtol=1e-6, atol=1e-8)


def test_the_config_begins_as_the_listing_does():
    config = min_char_rnn.get_config("text")
    model = config.model.clone(vocab_size=65)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 25), np.int32))
    leaves = jax.tree.leaves_with_path(variables)
    assert sum(leaf.size for _, leaf in leaves) == 23_165
    for path, leaf in leaves:
        if "bias" in jax.tree_util.keystr(path):
            assert not np.any(leaf)
        else:
            np.testing.assert_allclose(leaf.std(), 0.01, rtol=0.05)
    assert (config.batch_size, config.reduction, config.smooth_loss) == (1, "sum", 0.999)
    assert (config.data.sequence_length, config.sample_every, config.sample_length) == (
        25,
        100,
        200,
    )
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.epsilon, optimizer.clip_value) == (0.1, 1e-8, 5.0)


def test_hello_is_learned_to_certainty(tmp_path):
    summary = fit(min_char_rnn.get_config("hello"), tmp_path, quiet=True)
    assert summary["validation"]["accuracy"] == 1
    assert summary["validation"]["loss"] < 0.01
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [100, 200, 300, 400, 500]
    assert samples[-1]["text"] == "ello"

"""Models of texts: padding changes nothing, and every equation equals a loop in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.decoding import transcribe
from nn_lib.layers.attention import AttentionPooling, additive_scores, attend, attention_weights
from nn_lib.models import (
    CharLM,
    ConvOverTime,
    MeanOverTime,
    NameRNN,
    RecurrentEncoder,
    Seq2Seq,
    SequenceTagger,
    TextClassifier,
)
from nn_lib.objectives import classify, tag, transduce
from nn_lib.recurrent import RNN, BahdanauCell, Bidirectional, GRUCell, LSTMCell, LuongCell, Stacked
from tests.conftest import F

KEY = jax.random.key(0)
BOTH = Bidirectional(RNN(GRUCell(3)), RNN(GRUCell(3), reverse=True))
SIZES = {"vocab_size": 6, "num_classes": 3, "embedding": 4}
CLASSIFIERS = {
    "tutorial": NameRNN(6, 3, features=5),
    "bag": TextClassifier(MeanOverTime(), **SIZES),
    "cnn": TextClassifier(ConvOverTime((2, 3), 4), **SIZES),
    "attention": TextClassifier(RecurrentEncoder(BOTH, "attention"), **SIZES),
    "mean": TextClassifier(RecurrentEncoder(BOTH, "mean"), **SIZES),
    "max": TextClassifier(RecurrentEncoder(RNN(LSTMCell(4)), "max"), **SIZES),
    "last": TextClassifier(RecurrentEncoder(BOTH, "last"), **SIZES),
    "last_forward": TextClassifier(RecurrentEncoder(RNN(LSTMCell(4)), "last"), **SIZES),
}
TRANSDUCERS = {
    "plain": Seq2Seq(6, 5, LSTMCell(4), embedding=3),
    "plain_reversed": Seq2Seq(6, 5, GRUCell(4), 2, embedding=3, reverse_source=True),
    "plain_both_ways": Seq2Seq(6, 5, GRUCell(4), bidirectional=True, embedding=3),
    "bahdanau": Seq2Seq(6, 5, LSTMCell(4), 2, "bahdanau", bidirectional=True, embedding=3),
    "luong": Seq2Seq(6, 5, GRUCell(4), attention="luong", embedding=3),
}
TAGGERS = {
    "tagger": SequenceTagger(BOTH, **SIZES),
    "tagger_stacked": SequenceTagger(Stacked([RNN(LSTMCell(3)), BOTH], residual=True), **SIZES),
}
LENGTHS = (3, 1, 5)


def texts(steps: int, target_steps: int, rows: int = 3) -> dict:
    """A batch of texts of LENGTHS, padded with nonsense to so many steps; `rows` of it count."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, 6, (3, 5)), rng.integers(0, 5, (3, 4))
    input_mask = np.arange(5) < np.array(LENGTHS)[:, None]
    target_mask = np.arange(4) < np.array([4, 2, 3])[:, None]

    def pad(array, length):
        return np.pad(array, ((0, 0), (0, length - array.shape[1])))

    return {
        "inputs": np.where(pad(input_mask, steps), pad(inputs, steps), 5).astype(np.int32),
        "input_mask": pad(input_mask, steps),
        "targets": np.where(pad(target_mask, target_steps), pad(targets, target_steps), 3),
        "target_mask": pad(target_mask, target_steps),
        "mask": np.arange(3) < rows,
    }


def with_labels(batch: dict, kind: str) -> dict:
    if kind == "classes":
        return batch | {"labels": np.array([0, 2, 1], np.int32)}
    tags = np.resize(np.array([2, 0, 1], np.int32), (3, 5))
    return batch | {"labels": np.pad(tags, ((0, 0), (0, batch["inputs"].shape[1] - 5)))}


OBJECTIVES = (
    [(classify, "classes", name, model) for name, model in CLASSIFIERS.items()]
    + [(tag, "tags", name, model) for name, model in TAGGERS.items()]
    + [(transduce, "classes", name, model) for name, model in TRANSDUCERS.items()]
)


# Two compiled gradients each; the others run in the slow tests.
QUICK = ("tutorial", "cnn", "last", "tagger", "plain")


@pytest.mark.parametrize(
    ("objective", "kind", "name", "model"),
    [
        pytest.param(*row, id=row[2], marks=() if row[2] in QUICK else pytest.mark.slow)
        for row in OBJECTIVES
    ],
)
def test_padding_changes_no_loss_no_gradient_and_no_prediction(x64, objective, kind, name, model):
    short, long = (with_labels(texts(*sizes), kind) for sizes in ((5, 4), (9, 7)))
    variables = jax.jit(model.init)(KEY, short["inputs"])
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)

    @jax.jit
    def measure(params, batch):
        def loss_of(params):
            loss, measured, *_ = objective(model, {"params": params}, batch, {}, None, False)
            return loss, measured

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    (loss, measured), gradient = measure(variables["params"], short)
    (again, others), same = measure(variables["params"], long)
    np.testing.assert_allclose(loss, again, rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, same
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), measured, others)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    if name not in ("cnn", "tagger", "bahdanau"):
        return
    # A batch of one text is that text of the batch of three.
    single = {key: value[:1] for key, value in long.items()}
    alone, _ = measure(variables["params"], single)
    first, _ = measure(variables["params"], long | {"mask": np.array([True, False, False])})
    np.testing.assert_allclose(alone[0], first[0], rtol=1e-12)


def test_the_tutorials_network_has_its_parameters_and_its_arithmetic(x64):
    model = NameRNN(57, 18)
    letters = np.array([[3, 50, 7, 11]], np.int32)
    variables = jax.jit(model.init)(KEY, letters)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 27_156
    w = jax.tree.map(np.asarray, variables["params"]["TutorialCell_0"])
    hidden = np.zeros(128)
    for letter in letters[0]:
        combined = np.concatenate([np.eye(57)[letter], hidden])
        output = combined @ w["W_o"] + w["b_o"]
        hidden = combined @ w["W_h"] + w["b_h"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, letters)[0], output, rtol=1e-5)
    # A name of one letter gives the hidden layer's weights no gradient.
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(model.apply(v, letters[:, :1]) ** 2)))(variables)
    assert not np.any(gradient["params"]["TutorialCell_0"]["W_h"])


def test_one_hot_vectors_times_a_matrix_are_embeddings():
    tokens = np.array([[0, 3, 2]])
    models = CharLM(5, LSTMCell(4)), CharLM(5, LSTMCell(4), embedding=5)
    one_hot, embedded = (jax.jit(model.init)(KEY, tokens) for model in models)
    embedded["params"]["recurrent"] = one_hot["params"]["recurrent"]
    embedded["params"]["output"] = one_hot["params"]["output"]
    embedded["params"]["embed"]["embedding"] = jnp.eye(5)
    ours, theirs = (
        jax.jit(model.apply)(variables, tokens)[0]
        for model, variables in zip(models, (one_hot, embedded))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    kinds = [TextClassifier(MeanOverTime(), **(SIZES | {"embedding": e})) for e in (0, 6)]
    dense = jax.jit(kinds[0].init)(KEY, tokens)
    looked_up = {"params": {**dense["params"], "Embed_0": {"embedding": jnp.eye(6)}}}
    ours, theirs = (
        jax.jit(kind.apply)(variables, tokens) for kind, variables in zip(kinds, (dense, looked_up))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_attention_has_its_worked_values(x64):
    a, h = F((4, 3), 1), F((2,), 30)
    keys, query = a @ F((5, 3), 50, 0.5).T, F((5, 2), 80, 0.5) @ h
    alpha = attention_weights(additive_scores(query[None], keys[None], F((5,), 95)))
    np.testing.assert_allclose(
        alpha[0], [0.27686115, 0.22112531, 0.24837220, 0.25364134], atol=1e-8
    )
    np.testing.assert_allclose(
        attend(alpha, a[None])[0], [0.09081341, 0.03179694, -0.05645349], atol=1e-8
    )


def test_attention_gives_padding_no_weight_and_no_gradient(x64):
    scores = jnp.array([[1.0, 2.0, jnp.inf], [jnp.nan, 5.0, 1e300]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    e = np.exp([1.0, 2.0])
    np.testing.assert_allclose(attention_weights(scores, mask), [[*(e / e.sum()), 0], [0, 0, 0]])
    gradient = jax.grad(lambda s: jnp.sum(attention_weights(s, mask)[:, 0]))(scores)
    assert np.isfinite(gradient).all() and not np.any(gradient[~mask])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("kind", [BahdanauCell, LuongCell])
def test_a_cell_that_attends_is_its_equations_in_a_loop(x64, kind):
    inner, width, rows = GRUCell(4, param_dtype=jnp.float64), 5, 6
    cell = kind(width, cell=inner, memory_features=3, param_dtype=jnp.float64)
    x, memory = F((2, 7, 2), 3), F((2, rows, 3), 40)
    mask = np.arange(rows) < np.array([[4], [6]])
    layer = RNN(cell)
    variables = jax.jit(layer.init)(KEY, x, context=(memory, mask))
    carry, outputs = jax.jit(layer.apply)(variables, x, context=(memory, mask))
    w = jax.tree.map(np.asarray, variables["params"]["cell"])
    apply = jax.jit(inner.apply)

    def step_inside(h, x):
        found, _ = apply({"params": w["cell"]}, jnp.asarray(h)[None], jnp.asarray(x)[None])
        return np.asarray(found[0])

    for row in range(2):
        a, seen = memory[row], mask[row]
        h, s = np.zeros(4), np.zeros(width)
        for t in range(7):
            if kind is BahdanauCell:
                e = np.tanh(h @ w["W"] + a @ w["U"]) @ w["v"][:, 0]
            else:
                h = step_inside(h, np.concatenate([x[row, t], s]))
                e = a @ w["W"] @ h
            alpha = softmax(np.where(seen, e, -np.inf))
            c = alpha @ a
            if kind is BahdanauCell:
                h = step_inside(h, np.concatenate([x[row, t], c]))
                expected = [*h, *c, *alpha]
            else:
                s = np.tanh(np.concatenate([c, h]) @ w["W_c"])
                expected = [*s, *alpha]
            np.testing.assert_allclose(outputs[row, t], expected, rtol=1e-10, atol=1e-12)
    last = jax.tree.leaves(carry)
    np.testing.assert_allclose(last[0][1], h, rtol=1e-10)


def test_a_cell_that_does_not_attend_takes_no_context():
    with pytest.raises(UserError, match="GRUCell takes no context; a BahdanauCell or LuongCell"):
        RNN(GRUCell(3)).init(KEY, jnp.ones((1, 2, 3)), context=(jnp.ones((1, 2, 3)), None))


def test_what_a_cell_that_attends_cannot_do_is_said():
    memory = (jnp.ones((1, 2, 3)), None)
    x, cell = jnp.ones((1, 2, 3)), BahdanauCell(4, cell=GRUCell(3), memory_features=3)
    with pytest.raises(UserError, match="expects a memory to attend to"):
        RNN(cell).init(KEY, x)
    with pytest.raises(UserError, match="no zoneout and no perturbations for a BahdanauCell"):
        RNN(cell, zoneout=0.1).init(KEY, x, context=memory)
    noisy = RNN(cell, state_dropout=0.5)
    with pytest.raises(UserError, match="BahdanauCell takes no state_dropout"):
        noisy.init({"params": KEY, "dropout": KEY}, x, context=memory, train=True)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["none", "bahdanau", "luong"])
def test_half_precision_encodes_and_decodes(attention):
    cell = GRUCell(4, dtype=jnp.bfloat16)
    model = Seq2Seq(6, 5, cell, 2, attention, bidirectional=True, embedding=3)
    batch = texts(5, 4)
    variables = jax.jit(model.init)(KEY, batch["inputs"])
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def decode(variables):
        mask = batch["input_mask"]
        return transcribe(model, variables, batch["inputs"], mask, max_length=3, beam=2)

    found = jax.jit(decode)(variables)
    assert np.isfinite(found.log_probabilities).all()


def test_last_states_of_directions_of_unequal_width_are_those_of_the_loop():
    x, mask = F((2, 4, 3), 1).astype(np.float32), np.arange(4) < np.array([[4], [2]])
    layer = Bidirectional(RNN(GRUCell(4)), RNN(LSTMCell(2), reverse=True))
    encoder = RecurrentEncoder(Stacked([RNN(GRUCell(3)), layer]), "last")
    variables = jax.jit(encoder.init)(KEY, x, mask)
    apply = jax.jit(encoder.apply)
    found = apply(variables, x, mask)
    assert found.shape == (2, 6)
    short = apply(variables, x[1:, :2], mask[1:, :2])
    np.testing.assert_allclose(found[1:], short, rtol=1e-6)


def test_filters_over_windows_are_a_loop(x64):
    x, mask = F((2, 5, 3), 1), np.arange(5) < np.array([[5], [2]])
    layer = ConvOverTime((2, 4), 3)
    variables = jax.tree.map(lambda v: v.astype(jnp.float64), layer.init(KEY, x, mask))
    found = layer.apply(variables, x, mask)
    for row, length in enumerate((5, 2)):
        expected = []
        for index, width in enumerate((2, 4)):
            weights = jax.tree.map(np.asarray, variables["params"][f"Conv_{index}"])
            hang = np.zeros((width - 1, 3))
            padded = np.concatenate([hang, x[row, :length], hang])
            c = [
                np.einsum("kf,kfo->o", padded[t : t + width], weights["kernel"]) + weights["bias"]
                for t in range(len(padded) - width + 1)
            ]
            expected += list(np.maximum(np.max(c, axis=0), 0))
        np.testing.assert_allclose(found[row], expected, rtol=1e-10, atol=1e-12)


def test_attention_pooling_is_a_weighted_mean(x64):
    x, mask = F((1, 4, 3), 1), np.array([[True, True, True, False]])
    layer = AttentionPooling(2)
    variables = jax.jit(layer.init)(KEY, x, mask)
    w = jax.tree.map(np.asarray, variables["params"])
    u = np.tanh(x[0, :3] @ w["Dense_0"]["kernel"] + w["Dense_0"]["bias"])
    alpha = softmax((u @ w["query"]["kernel"])[:, 0])
    np.testing.assert_allclose(layer.apply(variables, x, mask)[0], alpha @ x[0, :3], rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "luong",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("plain_reversed", "bahdanau")),
    ],
)
def test_decoding_step_by_step_gives_the_logits_of_the_whole(name):
    model, batch = TRANSDUCERS[name], texts(6, 4)
    variables = jax.jit(model.init)(KEY, batch["inputs"])
    apply = jax.jit(model.apply, static_argnames="method")
    whole = apply(variables, batch["inputs"], batch["targets"], batch["input_mask"])
    carry, memory = apply(variables, batch["inputs"], batch["input_mask"], method="read")
    token = np.zeros(3, np.int32)
    for t in range(4):
        carry, logits = apply(variables, carry, token, memory, method="step")
        np.testing.assert_allclose(logits, whole[:, t], rtol=2e-5, atol=2e-6)
        token = batch["targets"][:, t]
    if model.attention != "none":
        alpha = apply(
            variables, batch["inputs"], batch["targets"], batch["input_mask"], method="align"
        )
        assert alpha.shape == (3, 4, 6)
        np.testing.assert_allclose(alpha.sum(-1), 1, rtol=1e-5)
        assert not np.any(np.where(batch["input_mask"][:, None], 0, alpha))


def test_a_reversed_source_is_the_reversed_source():
    tokens = np.array([[1, 2, 3], [4, 5, 0]])
    mask = np.array([[True, True, True], [True, True, False]])
    flipped = np.array([[3, 2, 1], [5, 4, 0]])
    forward, backward = (
        Seq2Seq(6, 5, LSTMCell(4), embedding=3, reverse_source=reverse) for reverse in (False, True)
    )
    targets = np.array([[2, 3, 1], [4, 1, 1]])
    variables = jax.jit(forward.init)(KEY, tokens)
    np.testing.assert_allclose(
        jax.jit(forward.apply)(variables, flipped, targets, mask),
        jax.jit(backward.apply)(variables, tokens, targets, mask),
        rtol=1e-6,
    )


def test_label_smoothing_is_its_formula(x64):
    model, batch = TRANSDUCERS["plain"], texts(5, 4)
    variables = jax.jit(model.init)(KEY, batch["inputs"])
    inputs = batch["inputs"], batch["targets"], batch["input_mask"]
    logp = np.asarray(jax.nn.log_softmax(jax.jit(model.apply)(variables, *inputs)))
    wanted = 0.9 * np.eye(5)[batch["targets"]] + 0.1 / 5
    expected = -(wanted * logp).sum(-1)[batch["target_mask"]].mean()

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def measure(smoothing, train):
        arguments = (model, variables, batch, {"dropout": KEY}, None, train)
        return transduce(*arguments, smoothing=smoothing)[:2]

    loss, measured = measure(0.1, True)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    plain, _ = measure(0.0, True)
    np.testing.assert_allclose(measured["loss"][0] / measured["loss"][1], plain, rtol=1e-6)
    unsmoothed, _ = measure(0.1, False)
    np.testing.assert_allclose(unsmoothed, plain, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "bahdanau"])
def test_scheduled_sampling_reads_its_own_tokens_as_often_as_it_is_told(name):
    model, batch = TRANSDUCERS[name], texts(5, 4)
    variables = jax.jit(model.init)(KEY, batch["inputs"])
    rngs = {"dropout": KEY}
    truth, *_ = transduce(model, variables, batch, rngs, None, True)
    never = functools.partial(transduce, sampling=1e-9)
    np.testing.assert_allclose(
        never(model, variables, batch, rngs, None, True)[0], truth, rtol=1e-5
    )
    # Where the model is certain of token 2 it draws it, and reading it is reading targets of 2.
    sure = jax.tree.map(jnp.copy, variables)
    sure["params"]["output"]["bias"] = sure["params"]["output"]["bias"].at[2].add(100.0)
    twos = batch | {"targets": np.full_like(batch["targets"], 2)}
    always = functools.partial(transduce, sampling=1.0)
    expected = model.apply(sure, batch["inputs"], twos["targets"], batch["input_mask"])
    logp = jax.nn.log_softmax(expected)
    right = -np.take_along_axis(np.asarray(logp), batch["targets"][..., None], -1)[..., 0]
    loss, *_ = always(model, sure, batch, rngs, None, True)
    np.testing.assert_allclose(loss, right[batch["target_mask"]].mean(), rtol=1e-5)
    half = functools.partial(transduce, sampling=0.5)
    gradient = jax.grad(lambda v: half(model, v, batch, rngs, None, True)[0])(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecurrentEncoder(BOTH, "first"), "RecurrentEncoder.pooling"),
        (lambda: Seq2Seq(6, 5, attention="bahdanaw"), "Seq2Seq.attention"),
    ],
)
def test_unknown_options_are_named(make, message):
    model = make()
    arguments = (jnp.ones((1, 2, 3)), jnp.ones((1, 2), bool))
    if isinstance(model, Seq2Seq):
        arguments = (jnp.ones((1, 2), jnp.int32),)
    with pytest.raises(UserError, match=message):
        model.init(KEY, *arguments)

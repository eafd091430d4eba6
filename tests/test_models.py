"""Models: exact counts, protocols, and what they say about inputs that do not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mnist1d, mnist1d_paper
from nn_lib.checks import UserError
from nn_lib.decoding import sample, stream
from nn_lib.models import MLP, CharLM, ConvNet, LeNet5, SequenceClassifier
from nn_lib.recurrent import RNN, GRUCell, LSTMCell, Stacked

KEY = jax.random.key(0)


def count(model, *inputs):
    shapes = jax.eval_shape(model.init, KEY, *inputs)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("linear", 410), ("mlp", 15210), ("cnn", 5210), ("gru", 5134)],
)
def test_the_models_of_the_mnist1d_paper_have_its_parameter_counts(variant, parameters):
    for config in (mnist1d, mnist1d_paper):
        model = config.get_config(variant).model.clone(num_classes=10)
        assert count(model, jnp.zeros((2, 40, 1))) == parameters


def test_the_modern_lenet5_has_61706_parameters():
    assert count(LeNet5(), jnp.zeros((2, 32, 32, 1))) == 61706


@pytest.mark.parametrize(
    "model",
    [
        MLP(hidden=(5,)),
        ConvNet((4,), ((3, 3),), (2,), batch_norm=True, dropout=0.5),
        ConvNet((4,), ((3, 3),), (2,), global_pool=True),
        LeNet5(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_init_creates_every_parameter_whatever_train_is_and_none_classes_give_features(model):
    images = jnp.zeros((2, 32, 32, 1))
    model = model.clone(num_classes=7)
    rngs = {"params": KEY, "dropout": KEY}
    variables = jax.eval_shape(model.init, KEY, images)
    train = functools.partial(model.init, train=True)
    assert jax.eval_shape(train, rngs, images) == variables
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 7)
    features = model.clone(num_classes=None)
    variables = jax.eval_shape(features.init, KEY, images)
    assert jax.eval_shape(features.apply, variables, images).ndim == 2


def test_batch_statistics_follow_the_batch_only_in_training():
    model = ConvNet((4,), ((3,),), (1,), num_classes=2, batch_norm=True)
    signals = jax.random.normal(KEY, (8, 10, 1)) * 3 + 5
    variables = jax.jit(model.init)(KEY, signals)
    _, after = model.apply(variables, signals, train=True, mutable=["batch_stats"])
    before = variables["batch_stats"]
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), after["batch_stats"], before)
    assert all(jax.tree.leaves(moved))
    assert isinstance(model.apply(variables, signals, train=False), jax.Array)


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_a_padded_sequence_is_classified_as_the_short_one(readout):
    model = SequenceClassifier(RNN(GRUCell(4)), readout=readout, num_classes=3)
    inputs = jax.random.normal(KEY, (2, 6, 2))
    variables = jax.jit(model.init)(KEY, inputs)
    mask = jnp.arange(6) < jnp.array([[4], [6]])
    logits, _ = model.apply(variables, inputs, mask=mask)
    alone, _ = model.apply(variables, inputs[:1, :4])
    np.testing.assert_allclose(logits[0], alone[0], rtol=1e-5, atol=1e-6)


def test_dropout_between_layers_reaches_a_classifier():
    layer = Stacked([RNN(GRUCell(4)), RNN(GRUCell(4))], dropout=0.5)
    model = SequenceClassifier(layer, num_classes=3)
    inputs = jax.random.normal(KEY, (2, 6, 2))
    variables = jax.jit(model.init)(KEY, inputs)

    def logits(seed):
        return model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(seed)})[0]

    assert (logits(0) != logits(1)).any()
    np.testing.assert_array_equal(logits(0), logits(0))


def test_an_embedding_equals_a_one_hot_product():
    tokens = jax.random.randint(KEY, (2, 5), 0, 7)
    one_hot = CharLM(7, LSTMCell(4))
    variables = one_hot.init(KEY, tokens)
    embedded = CharLM(7, LSTMCell(4), embedding=7)
    params = {**variables["params"], "embed": {"embedding": jnp.eye(7)}}
    np.testing.assert_allclose(
        embedded.apply({"params": params}, tokens)[0],
        one_hot.apply(variables, tokens)[0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_character_model_continues_from_its_carry():
    model = CharLM(7, LSTMCell(4), num_layers=2)
    tokens = jax.random.randint(KEY, (3, 6), 0, 7)
    variables = jax.jit(model.init)(KEY, tokens)
    apply = jax.jit(model.apply)
    whole, _ = apply(variables, tokens)
    start = model.initialize_carry(3)
    first, carry = apply(variables, tokens[:, :2], carry=start)
    second, _ = apply(variables, tokens[:, 2:], carry=carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, rtol=1e-5, atol=1e-6)
    probe = tokens.at[:, 4].set((tokens[:, 4] + 1) % 7)
    changed, _ = apply(variables, probe)
    np.testing.assert_array_equal(changed[:, :4], whole[:, :4])  # no look at the future


def test_a_sample_is_greedy_at_temperature_zero_and_within_the_top_k():
    logits = jax.random.normal(jax.random.key(1), (500, 9))
    best = jnp.argmax(logits, -1)
    np.testing.assert_array_equal(sample(KEY, logits, temperature=0.0), best)
    np.testing.assert_array_equal(sample(KEY, logits, temperature=5.0, top_k=1), best)
    drawn = sample(KEY, logits, temperature=5.0, top_k=3)
    ranks = (logits > jnp.take_along_axis(logits, drawn[:, None], 1)).sum(1)
    assert set(np.unique(ranks)) == {0, 1, 2}


def test_samples_have_the_softmax_frequencies():
    logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    drawn = sample(KEY, jnp.tile(logits, (20000, 1)))
    np.testing.assert_allclose(np.bincount(drawn) / 20000, [0.1, 0.2, 0.7], atol=0.015)


@pytest.mark.slow
def test_a_stream_is_greedy_decoding_and_does_not_depend_on_its_chunks():
    model = CharLM(7, GRUCell(8))
    prompt = np.array([1, 2, 3])
    variables = jax.jit(model.init)(KEY, prompt[None])

    def run(**arguments):
        return np.concatenate(list(stream(model, variables, prompt, 11, **arguments))).tolist()

    expected = list(prompt)
    for _ in range(11):
        logits, _ = model.apply(variables, jnp.array([expected]))
        expected.append(int(jnp.argmax(logits[0, -1])))
    assert run(temperature=0.0) == expected[3:]
    assert run(seed=5, chunk=4) == run(seed=5, chunk=32)
    assert run(seed=5) != run(seed=6)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (LeNet5(), (2, 28, 28, 1), r"LeNet5 expects images \[B, 32, 32, C\], got \[2, 28, 28, 1\]"),
        (ConvNet((4,), ((3, 3),), (1, 1)), (2, 8, 8, 1), "one window and one stride for every"),
        (
            ConvNet((4, 4), ((3,), (3,)), (2, 2), padding="VALID"),
            (2, 4, 1),
            r"ran out of pixels: a window of \(3,\) .* over \(1,\) .*; use larger inputs",
        ),
        (ConvNet((4,), ((3,),), (1,)), (2, 8, 8, 1), r"window \(3,\) expects inputs of rank 3"),
        (SequenceClassifier(RNN(GRUCell(2)), "lst"), (2, 3, 1), "did you mean last"),
    ],
)
def test_mistakes_are_named(model, shape, message):
    with pytest.raises(UserError, match=message):
        model.init(KEY, jnp.zeros(shape))

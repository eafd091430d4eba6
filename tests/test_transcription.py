"""Metrics of written sequences and of spans, against hand values and brute force."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import addition, names, tagging
from nn_lib import metrics
from nn_lib.checks import UserError
from nn_lib.data import DataConfig
from nn_lib.data.text import Vocabulary
from nn_lib.decoding import Decoded, log_probabilities
from nn_lib.objectives import tag
from nn_lib.train import Transcription, fit, restore, texts
from nn_lib.train.run import Run
from nn_lib.train.transcription import Comparison

pytestmark = pytest.mark.usefixtures("undrawn")


def test_error_rates_and_bleu_have_their_hand_values():
    vocabulary = Vocabulary(("<start>", "<end>", *"abcdef"), "words")
    pairs = [
        (np.array([2, 3, 4, 5]), [np.array([2, 3, 4, 5])]),  # right
        (np.array([2, 3]), [np.array([2, 4, 3]), np.array([5, 5, 5])]),  # one missing of three
        (np.array([6, 6]), [np.array([7]), np.array([6, 6, 6, 6])]),  # two of one, or two of four
    ]
    found = metrics.transcription(pairs, vocabulary.decode)
    assert found["token_error_rate"] == (0 + 1 + 2, 4 + 3 + 1)
    assert found["sequence_error_rate"] == (2, 3)
    perfect = metrics.transcription(pairs[:1], vocabulary.decode)
    np.testing.assert_allclose(metrics.means(perfect)["bleu"], 100)
    # Of 1, 2, 3, 4 words in a row 6 of 8, 4 of 6, 2 of 4 and 1 of 2 are right; 8 words are not
    # shorter than the 7 that are right.
    written = [np.array([2, 3, 4, 5, 6]), np.array([2, 3, 7])]
    right = [[np.array([2, 3, 4, 5, 7])], [np.array([2, 3])]]
    expected = 100 * (6 / 8 * 4 / 6 * 2 / 4 * 1 / 2) ** 0.25
    pairs = list(zip(written, right))
    bleu = metrics.means(metrics.transcription(pairs, vocabulary.decode))
    np.testing.assert_allclose(bleu["bleu"], expected, rtol=1e-6)


def test_a_source_with_several_right_answers_counts_once():
    vocabulary = Vocabulary(("<start>", "<end>", "a", "b"), "words")
    comparison = Comparison(vocabulary, vocabulary)
    batch = {
        "inputs": np.array([[5, 6], [5, 6], [5, 0]]),
        "input_mask": np.array([[True, True], [True, True], [True, False]]),
        "targets": np.array([[2, 1, 0], [3, 3, 1], [2, 2, 1]]),
        "target_mask": np.array([[True, True, False], [True] * 3, [True] * 3]),
        "mask": np.array([True, True, True]),
    }
    tokens = np.array([[[3, 3, 1]], [[3, 3, 1]], [[2, 3, 1]]])
    decoded = Decoded(tokens, np.full((3, 1), 3), np.zeros((3, 1)))
    comparison.add(batch, decoded)
    found = comparison.metrics()
    assert found["sequence_error_rate"] == (1, 2)
    assert found["token_error_rate"] == (1, 2 + 2)


def spans_by_hand(tags: list[str]) -> set[tuple]:
    """(type, first, last) of the spans of tags B-x, I-x, O or x, by a loop."""
    found, kind, first = set(), None, 0
    for place, name in enumerate([*tags, "O"]):
        prefix, dash, rest = name.partition("-")
        tagged = bool(dash) and prefix in "BI"
        now = None if name == "O" else (rest if tagged else name)
        if kind is not None and (now != kind or (tagged and prefix == "B")):
            found.add((kind, first, place - 1))
            kind = None
        if now is not None and kind is None:
            kind, first = now, place
    return found


NAMES = ("O", "B-x", "I-x", "B-y", "I-y", "z")
spans = jax.jit(functools.partial(metrics.spans, table=metrics.span_table(NAMES)))
SENTENCES = st.lists(st.integers(0, 5), min_size=6, max_size=6)


@given(st.lists(st.tuples(SENTENCES, SENTENCES, st.integers(1, 6)), min_size=1, max_size=3))
def test_span_f1_is_that_of_the_spans_found_by_a_loop(rows):
    predicted, labels = (np.array([row[i] for row in rows]) for i in (0, 1))
    mask = np.arange(6) < np.array([row[2] for row in rows])[:, None]
    counts, _ = spans(predicted, labels, mask)
    right = found = true = 0
    for guess, label, length in rows:
        ours, theirs = (spans_by_hand([NAMES[t] for t in s[:length]]) for s in (guess, label))
        right, found, true = right + len(ours & theirs), found + len(ours), true + len(theirs)
    np.testing.assert_array_equal(counts, [right, found, true])
    f1 = metrics.means({"span_f1": (counts, mask.sum())})["span_f1"]
    np.testing.assert_allclose(f1, 2 * right / max(found + true, 1))


def test_the_objective_counts_the_spans_of_its_tags():
    batch = {
        "inputs": np.array([[1, 2, 3]]),
        "labels": np.array([[1, 2, 0]]),
        "input_mask": np.array([[True, True, False]]),
        "mask": np.array([True]),
    }
    names = ("O", "B-x", "I-x")
    variables = {"params": {}}

    class Fixed:
        def apply(self, variables, inputs, train, rngs, mask):
            return 9.0 * jnp.eye(3)[jnp.array([[1, 2, 2]])]

    found = tag(Fixed(), variables, batch, {}, None, False, class_names=names)[1]
    np.testing.assert_array_equal(found["span_f1"][0], [1, 1, 1])
    assert (
        found["exact"] == (1, 1)
        and "span_f1" not in tag(Fixed(), variables, batch, {}, None, True, class_names=names)[1]
    )


@pytest.fixture(scope="module")
def adder(tmp_path_factory):
    """A run that has learned next to nothing, of sums of two digits."""
    config = addition.get_config("bahdanau")
    config.model = config.model.clone(cell=config.model.cell.clone(features=16), embedding=8)
    config.data.name = "addition/2"
    config = dataclasses.replace(config, num_steps=10, eval_every=0, log_every=10, batch_size=32)
    workdir = tmp_path_factory.mktemp("adder") / "run"
    return workdir, fit(config, workdir, quiet=True)


@pytest.mark.slow
def test_an_encoder_decoder_is_measured_by_what_it_writes_itself(adder):
    workdir, summary = adder
    trained = restore(workdir)
    assert trained.facts.target_vocabulary.tokens[:2] == ("<start>", "<end>")
    found = metrics.means(trained.evaluate("test"))
    for name in ("sequence_error_rate", "token_error_rate", "loss"):
        np.testing.assert_allclose(found[name], summary["test"][name], rtol=1e-6)
    # The same by hand from what it writes for each source.
    data = Run.prepare(trained.experiment).data
    split = data.split("test")
    sources = [data.vocabulary.decode(split.inputs[row]) for row in range(len(split))]
    right = [data.target_vocabulary.decode(split.labels[row][:-1]) for row in range(len(split))]
    written = [best[0].text for best in texts.write_texts(trained, sources, max_length=8)]
    wrong = np.mean([a != b for a, b in zip(written, right)])
    np.testing.assert_allclose(found["sequence_error_rate"], wrong)


@pytest.mark.slow
def test_what_is_written_comes_with_its_alignment(adder):
    trained = restore(adder[0])
    (best, second), *others = texts.write_texts(trained, ["12+7", "5+60"], beam=2, aligned=True)
    assert best.alignment.shape == (len(best.tokens), 4) and second.alignment is None
    assert best.source == ["1", "2", "+", "7"]
    assert best.log_probability >= second.log_probability
    numbers = trained.facts.target_vocabulary.encode(second.tokens)[None]
    tokens, mask = texts.encode_texts(trained, ["12+7"])
    every = np.ones(numbers.shape, bool)
    model, variables = trained.experiment.model, trained.variables
    score = log_probabilities(model, variables, tokens, mask, numbers, every)
    np.testing.assert_allclose(score[0], second.log_probability, rtol=1e-5)
    assert len(others) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given_texts", "message"),
    [(["1x2"], "characters that the model's vocabulary lacks: 'x'"), ([""], "nothing is left")],
)
def test_texts_that_cannot_be_read_are_refused(adder, given_texts, message):
    with pytest.raises(UserError, match=message):
        texts.write_texts(restore(adder[0]), given_texts)


@pytest.mark.slow
def test_texts_longer_than_those_of_training_are_refused(adder):
    trained = restore(adder[0])
    data = dataclasses.replace(trained.experiment.data, max_length=5)
    short = dataclasses.replace(
        trained, experiment=dataclasses.replace(trained.experiment, data=data)
    )
    with pytest.raises(UserError, match=r"has 6 tokens, and the model was trained on 5 at most"):
        texts.encode_texts(short, ["123+45"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transcription": Transcription()}, "transcription is for pairs of texts"),
        ({"sample_every": 5}, "sample_every is for language models"),
        ({"smooth_loss": 1.0}, "smooth_loss must be at least 0 and below 1"),
    ],
)
def test_options_of_other_tasks_are_refused(change, message):
    config = dataclasses.replace(names.get_config("gru"), **change)
    with pytest.raises(UserError, match=message):
        Run.prepare(config)


def test_an_objective_gets_the_class_names_of_its_data(tmp_path):
    file = tmp_path / "tags.txt"
    file.write_text("".join(f"a{n} B-x\nb I-x\nc O\n\n" for n in range(30)))
    config = tagging.get_config()
    config.data = DataConfig(path=str(file), layout="columns", unit="words")
    config.batch_size = 4
    run = Run.prepare(config)
    assert isinstance(run.experiment.objective, functools.partial)
    assert run.experiment.objective.keywords == {"class_names": ("B-x", "I-x", "O")}
    assert "span_f1" in run.validation_metrics


def test_unknown_words_are_never_right_and_never_the_same_source():
    vocabulary = Vocabulary(("<start>", "<end>", "<unknown>", "a"), "words")
    comparison = Comparison(vocabulary, vocabulary)
    batch = {
        "inputs": np.array([[2], [2]]),
        "input_mask": np.ones((2, 1), bool),
        "targets": np.array([[2, 1], [3, 1]]),
        "target_mask": np.ones((2, 2), bool),
        "mask": np.array([True, True]),
    }
    decoded = Decoded(np.array([[[2, 1]], [[3, 1]]]), np.full((2, 1), 2), np.zeros((2, 1)))
    comparison.add(batch, decoded)
    assert comparison.metrics()["sequence_error_rate"] == (1, 2)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_length", 2, "max_length is 2, and targets have up to 4 tokens"),
        ("beam", 0, "beam must be above 0, got 0"),
    ],
)
def test_a_transcription_that_cannot_be_meant_is_refused(field, value, message):
    config = addition.get_config("luong")
    config.data.name = "addition/2"
    setattr(config.transcription, field, value)
    with pytest.raises(UserError, match=message):
        Run.prepare(config)


def test_one_long_text_is_no_data_for_a_classifier(tmp_path):
    (tmp_path / "text").write_text("abc " * 9999)
    config = names.get_config("gru")
    config.data.path = str(tmp_path / "text")
    with pytest.raises(UserError, match="the data is one long text, and TextClassifier takes sep"):
        Run.prepare(config)

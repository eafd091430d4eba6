"""Decoding against brute force: greedy, beams, sampling, scores."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.decoding import beam_search, greedy, log_probabilities, sample, stream, transcribe
from nn_lib.models import CharLM, Seq2Seq
from nn_lib.recurrent import GRUCell, LSTMCell, VanillaCell

KEY = jax.random.key(0)
START, END, SIZE, LONGEST = 0, 1, 4, 4
MODEL = CharLM(SIZE, VanillaCell(5))
VARIABLES = jax.tree.map(lambda leaf: 2.5 * leaf, MODEL.init(KEY, np.zeros((1, 1), np.int32)))
FRAME = {"start": START, "end": END, "max_length": LONGEST}


def step(carry, token):
    logits, carry = MODEL.apply(VARIABLES, token[:, None], carry=carry)
    return carry, logits[:, 0]


def carries(rows: int):
    """A different state for each row."""
    return (jax.random.normal(jax.random.key(7), (rows, 5)),)


def every_sequence(row: int, rows: int) -> dict[tuple[int, ...], float]:
    """The log probability of every sequence that ends, or is as long as can be, by a loop."""
    found = {}
    start = tuple(leaf[row : row + 1] for leaf in carries(rows))
    for length in range(1, LONGEST + 1):
        for body in itertools.product([t for t in range(SIZE) if t != END], repeat=length):
            for tokens in ((*body[:-1], END),) + ((body,) if length == LONGEST else ()):
                if tokens in found:
                    continue
                carry, token, score = start, START, 0.0
                for following in tokens:
                    carry, logits = jitted(carry, np.array([token], np.int32))
                    score += float(jax.nn.log_softmax(logits[0])[following])
                    token = following
                found[tokens] = score
    return found


jitted = jax.jit(step)


def test_every_sequence_is_enumerated():
    found = every_sequence(0, 1)
    assert len(found) == sum(3**n for n in range(4)) + 3**4
    np.testing.assert_allclose(sum(map(np.exp, found.values())), 1, rtol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_of_full_width_finds_the_best_sequences(penalty):
    rows, width = 2, SIZE**LONGEST
    found = beam_search(
        step, carries(rows), batch_size=rows, beam=width, length_penalty=penalty, **FRAME
    )
    for row in range(rows):
        scores = every_sequence(row, rows)
        ranks = {t: s / ((5 + len(t)) / 6) ** penalty for t, s in scores.items()}
        best = sorted(ranks, key=ranks.get, reverse=True)
        count = int(np.isfinite(found.log_probabilities[row]).sum())
        assert count == len(best)
        for place, expected in enumerate(best[:10]):
            length = int(found.lengths[row, place])
            assert tuple(np.asarray(found.tokens[row, place, :length])) == expected
            np.testing.assert_allclose(
                found.log_probabilities[row, place], scores[expected], rtol=1e-4
            )
        assert (np.asarray(found.tokens[row, 0, len(best[0]) :]) == END).all()


def test_greedy_takes_the_likeliest_token_and_stops_at_the_end():
    rows = 6
    found = greedy(step, carries(rows), batch_size=rows, **FRAME)
    lengths = set()
    for row in range(rows):
        carry, token, tokens, score = tuple(c[row : row + 1] for c in carries(rows)), START, [], 0.0
        while len(tokens) < LONGEST and (not tokens or tokens[-1] != END):
            carry, logits = jitted(carry, np.array([token], np.int32))
            token = int(np.argmax(logits[0]))
            tokens.append(token)
            score += float(jax.nn.log_softmax(logits[0])[token])
        assert np.asarray(found.tokens[row, : len(tokens)]).tolist() == tokens
        assert int(found.lengths[row]) == len(tokens)
        np.testing.assert_allclose(found.log_probabilities[row], score, rtol=1e-5)
        lengths.add(len(tokens))
    assert len(lengths) > 1  # rows that end at different steps do not disturb each other


def test_a_beam_of_one_is_greedy():
    rows = 6
    one = beam_search(step, carries(rows), batch_size=rows, beam=1, **FRAME)
    best = greedy(step, carries(rows), batch_size=rows, **FRAME)
    np.testing.assert_array_equal(one.tokens[:, 0], best.tokens)
    np.testing.assert_array_equal(one.lengths[:, 0], best.lengths)
    np.testing.assert_allclose(one.log_probabilities[:, 0], best.log_probabilities, rtol=1e-6)


MODELS = {
    "plain": Seq2Seq(7, 6, LSTMCell(5), num_layers=2, embedding=4, reverse_source=True),
    "bahdanau": Seq2Seq(7, 6, GRUCell(5), 1, "bahdanau", bidirectional=True, embedding=4),
    "luong": Seq2Seq(7, 6, LSTMCell(5), 1, "luong", embedding=4),
}
SOURCES = np.array([[3, 5, 2, 6, 1], [4, 0, 0, 0, 0], [6, 6, 2, 0, 0]], np.int32)
LENGTHS = (5, 1, 3)
MASK = np.arange(5) < np.array(LENGTHS)[:, None]


@pytest.mark.parametrize(
    ("name", "beam"),
    [
        ("plain", 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("plain", 1), ("bahdanau", 1), ("luong", 1), ("bahdanau", 3), ("luong", 3))
        ),
    ],
)
def test_a_batch_is_decoded_as_its_texts_one_by_one_and_scored_alike(name, beam):
    model = MODELS[name]
    variables = jax.tree.map(lambda leaf: 2 * leaf, jax.jit(model.init)(KEY, SOURCES))
    options = {"max_length": 6, "beam": beam, "length_penalty": 0.6}
    together = jax.jit(lambda v: transcribe(model, v, SOURCES, MASK, **options))(variables)
    if beam > 1:
        assert int(together.lengths.min()) < 6  # some end by themselves
    for row, length in enumerate(LENGTHS):
        alone = transcribe(
            model,
            variables,
            SOURCES[row : row + 1, :length],
            MASK[row : row + 1, :length],
            **options,
        )
        np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])
        np.testing.assert_allclose(
            together.log_probabilities[row], alone.log_probabilities[0], rtol=1e-4
        )
    score = jax.jit(functools.partial(log_probabilities, model, variables, SOURCES, MASK))
    for place in range(beam):
        kept = np.arange(6) < np.asarray(together.lengths[:, place])[:, None]
        scores = score(together.tokens[:, place], kept)
        np.testing.assert_allclose(scores, together.log_probabilities[:, place], rtol=1e-4)


def test_top_p_keeps_the_fewest_that_make_up_the_share():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1]))
    keys = jax.random.split(KEY, 4000)

    def drawn(**options):
        tokens = jax.vmap(lambda key: sample(key, logits, **options))(keys)
        return np.bincount(np.asarray(tokens), minlength=4) / len(keys)

    np.testing.assert_allclose(drawn(top_p=0.5), [1, 0, 0, 0])
    np.testing.assert_allclose(drawn(top_p=0.6), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(drawn(top_p=0.9), [5 / 9, 5 / 18, 1 / 6, 0], atol=0.03)
    np.testing.assert_allclose(drawn(), [0.5, 0.25, 0.15, 0.1], atol=0.03)
    # Of the flatter distribution of temperature 2 the two likeliest are a smaller share.
    assert (drawn(top_p=0.7) > 0).sum() == 2
    assert (drawn(top_p=0.7, temperature=2.0) > 0).sum() == 3


@pytest.mark.parametrize("top_p", [0.0, 1.5])
def test_a_top_p_that_is_no_share_is_refused(top_p):
    with pytest.raises(UserError, match=f"top_p must be above 0 and at most 1, got {top_p}"):
        next(stream(MODEL, VARIABLES, np.array([1]), 3, top_p=top_p))


def test_a_stream_goes_on_from_the_state_it_is_given():
    text = np.array([2, 3, 1, 0, 2], np.int32)
    _, carry = MODEL.apply(VARIABLES, text[None, :3])
    whole = np.concatenate(list(stream(MODEL, VARIABLES, text, 8, temperature=0)))
    again = np.concatenate(list(stream(MODEL, VARIABLES, text[3:], 8, temperature=0, carry=carry)))
    np.testing.assert_array_equal(whole, again)

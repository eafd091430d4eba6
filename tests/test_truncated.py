"""TBPTT(k1, k2) against the lecture's terms, and the training windows that carry it out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn_lib.checks import UserError
from nn_lib.data.batches import CorpusBatches
from nn_lib.data.sources import Corpus
from nn_lib.models import CharLM, SequenceClassifier
from nn_lib.objectives import next_token
from nn_lib.recurrent import RNN, Stacked, VanillaCell, from_equations
from nn_lib.recurrent.truncated import read_window, truncated_bptt
from tests.cells import CELLS

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def as_model(layer, variables, inputs, carry, reset, mask):
    carry, outputs = layer.apply(variables, inputs, initial_carry=carry, reset=reset, mask=mask)
    return outputs, carry


def scalar_terms(W, U, x):
    """`[T, T]`, entry (i, l): delta_l^(i) d+h_l/dW of h_t = tanh(W h_{t-1} + U x_t), a loop."""
    h, terms = [0.0], np.zeros((len(x), len(x)))
    for value in x:
        h.append(np.tanh(W * h[-1] + U * value))
    for i in range(len(x)):
        back = 1.0
        for step in range(i, -1, -1):
            slope = 1 - h[step + 1] ** 2
            terms[i, step] = back * slope * h[step]
            back *= slope * W
    return terms


def scalar_gradient(W, U, x, k1, k2):
    """d sum_t h_t / dW by TBPTT(k1, k2)."""
    cell = VanillaCell(1, param_dtype=jnp.float64)
    inputs = jnp.asarray(x, jnp.float64)[None, :, None]

    def loss(W):
        symbols = {"W_hh": np.zeros((1, 1)), "W_xh": np.array([[U]]), "b_h": np.zeros(1)}
        params = from_equations(cell, **symbols)["params"] | {"recurrent_kernel": W}
        apply = functools.partial(as_model, RNN(cell), {"params": {"cell": params}})
        return truncated_bptt(apply, inputs, jnp.zeros((1, 1)), k1=k1, k2=k2)[0].sum()

    return jax.grad(loss)(jnp.array([[W]]))[0, 0]


def test_one_step_windows_keep_the_last_term_alone_and_a_whole_window_keeps_all(x64):
    terms = scalar_terms(0.8, 0.5, [1, -1, 0.5])
    np.testing.assert_allclose(terms[2], [0, 0.35581229, -0.12683796], atol=1e-8)
    for k, expected in ((1, 0.45435851 - 0.12683796), (3, 0.45435851 + 0.22897433)):
        np.testing.assert_allclose(scalar_gradient(0.8, 0.5, [1, -1, 0.5], k, k), expected, 1e-7)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 5))
def test_a_term_counts_where_its_window_holds_both_steps(length, k1, more):
    x, k2 = np.sin(np.arange(length) + 0.5), k1 + more
    ends = (np.arange(length) // k1 + 1) * k1  # of the window of each loss
    within = np.arange(length)[None] >= (ends - k2)[:, None]
    expected = (scalar_terms(0.9, 0.7, x) * within).sum()
    with jax.enable_x64(True):
        np.testing.assert_allclose(scalar_gradient(0.9, 0.7, x, k1, k2), expected, rtol=1e-10)


@pytest.mark.parametrize(("k1", "k2"), [(3, 9), slow(7, 7), slow(2, 8)])
def test_outputs_and_state_are_the_plain_ones_and_long_windows_give_full_bptt(x64, k1, k2):
    layer = Stacked([RNN(CELLS["lstm"](3)), RNN(CELLS["gru"](4))])
    inputs = jax.random.normal(jax.random.key(0), (2, 7, 3))
    mask = jnp.ones((2, 7), bool).at[0, 2].set(False)
    reset = jnp.zeros((2, 7), bool).at[1, 3].set(True)
    variables = jax.jit(layer.init)(jax.random.key(1), inputs)
    carry = jax.tree.map(lambda leaf: leaf + 0.1, layer.initialize_carry(2))
    carry = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), carry)

    def loss(variables, cut):
        apply = functools.partial(as_model, layer, variables)
        arguments = {"reset": reset, "mask": mask}
        if cut:
            outputs, last = truncated_bptt(apply, inputs, carry, k1=k1, k2=k2, **arguments)
        else:
            outputs, last = apply(inputs, carry=carry, **arguments)
        return jnp.sin(outputs).sum(), last

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    found, expected = differentiate(variables, True), differentiate(variables, False)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    jax.tree.map(check, found[0], expected[0])
    if k1 == 7:
        jax.tree.map(check, found[1], expected[1])


def test_windows_that_overlap_give_the_losses_of_those_that_do_not():
    """Over two rounds of the streams, documents ending within windows, with the weights held."""
    model = CharLM(5, CELLS["gru"](6).clone(param_dtype=jnp.float32), embedding=3)
    tokens = np.random.default_rng(0).integers(0, 5, 43).astype(np.int32)
    corpus = Corpus(tokens, document_end=4)
    variables = jax.jit(model.init)(jax.random.key(0), tokens[None, :4])
    losses = {}
    step = jax.jit(lambda batch, carry: next_token(model, variables, batch, {}, carry, True))
    for overlap in (0, 3, 8):
        batches = CorpusBatches(corpus, 2, 5, overlap)
        carry = model.initialize_carry(2)
        losses[overlap] = []
        for number in range(2 * batches.windows):
            loss, _, _, carry = step(batches.at(number), carry)
            losses[overlap].append(loss)
    for overlap in (3, 8):
        np.testing.assert_allclose(losses[overlap], losses[0], rtol=1e-5)
    assert np.ptp(losses[0]) > 0.01


def test_the_parts_of_an_overlapping_window_have_noise_of_their_own():
    model = CharLM(5, VanillaCell(6), dropout=0.5)
    tokens = np.zeros((1, 8), np.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    params["output"]["kernel"] += 1.0
    params["recurrent"]["layers_0"]["cell"]["bias"] += 1.0  # every output shows its own mask
    seen = []

    class Watched:
        def apply(self, *arguments, **keywords):
            result = model.apply(*arguments, **keywords)
            seen.append(np.asarray(result[0][..., 0]))
            return result

    batch = {
        "inputs": tokens,
        "targets": tokens[:, :4],
        "reset": np.zeros((1, 8), bool),
        "mask": np.ones((1, 8), bool),
    }
    rngs = {"dropout": jax.random.key(1)}
    next_token(Watched(), {"params": params}, batch, rngs, model.initialize_carry(1), True)
    first, second = seen
    assert first.shape == second.shape == (1, 4) and not np.allclose(first, second)


def test_a_reset_follows_the_end_of_a_document_in_training_and_evaluation():
    corpus = Corpus(np.array([0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 1, 0], np.int32), document_end=2)
    at = [CorpusBatches(corpus, 1, 5).at(step)["reset"][0].tolist() for step in (0, 1)]
    assert at == [
        [True, False, False, True, False],
        [False, False, True, True, False],
    ]


LAST = SequenceClassifier(RNN(VanillaCell(3)), num_classes=2)


def classifier(x, **arguments):
    return LAST.init_with_output(jax.random.key(0), x, **arguments)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda apply, x: truncated_bptt(apply, x, None, k1=2, k2=2), "first step, got None"),
        (
            lambda apply, x: truncated_bptt(classifier, x, jnp.zeros((2, 3)), k1=2, k2=2),
            r"an output for every step, \[2, 7, ...\], got \[2, 2\]",
        ),
        (lambda apply, x: truncated_bptt(apply, x, None, k1=3, k2=2), "1 <= k1 <= k2, got k1=3"),
        (lambda apply, x: read_window(apply, x, None, advance=9), "advance from 1 to the window's"),
    ],
)
def test_windows_that_cannot_be_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call(None, jnp.zeros((2, 7, 3)))

"""Losses and metrics against hand values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nn_lib import losses, metrics


def test_cross_entropy_and_its_gradient_are_the_worked_example():
    logits = jnp.array([1.0, 2.0, 3.0])
    loss, gradient = jax.value_and_grad(losses.cross_entropy)(logits, jnp.array(0))
    np.testing.assert_allclose(loss, 2.4076059644, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-0.90996943, 0.24472847, 0.66524096], atol=1e-6)


def test_a_uniform_guess_over_a_thousand_classes_costs_log_1000():
    loss = losses.cross_entropy(jnp.zeros((2, 1000)), jnp.array([3, 999]))
    np.testing.assert_allclose(loss, [6.9077552790] * 2, rtol=1e-6)


def test_soft_labels_that_are_one_hot_give_the_loss_of_hard_ones():
    logits = jax.random.normal(jax.random.key(0), (5, 7))
    labels = jnp.arange(5)
    soft = losses.cross_entropy(logits, jax.nn.one_hot(labels, 7))
    np.testing.assert_allclose(soft, losses.cross_entropy(logits, labels), rtol=1e-6)


def test_hello_scores_have_the_lectures_losses():
    scores = [[1, 2.2, -3, 4.1], [0.5, 0.3, -1, 1.2], [0.1, 0.5, 1.9, -1.1], [0.2, -1.5, -0.1, 2.2]]
    found = losses.cross_entropy(jnp.array(scores), jnp.array([1, 2, 2, 3]))
    expected = [2.0785167665, 2.9001020006, 0.3795884572, 0.2313637951]
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_a_bfloat16_loss_is_computed_in_float32():
    assert (
        losses.cross_entropy(jnp.zeros((2, 3), jnp.bfloat16), jnp.zeros(2, int)).dtype == "float32"
    )


def test_masked_values_never_count_not_even_nan():
    total, count = metrics.masked_sum(
        jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
    )
    assert (float(total), float(count)) == (4.0, 2.0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 29), st.integers(0, 9))
def test_a_metric_over_parts_is_the_metric_over_the_whole(labels, cut, seed):
    labels = np.array(labels)
    logits = np.random.default_rng(seed).normal(size=(len(labels), 4)).astype(np.float32)
    ones = np.ones(len(labels), bool)

    def measure(part):
        arguments = (logits[part], labels[part], ones[part])
        return {"a": metrics.accuracy(*arguments), "c": metrics.confusion(*arguments)}

    whole = metrics.add([measure(slice(None))])
    parts = metrics.add([measure(slice(0, cut)), measure(slice(cut, None))])
    assert metrics.means(whole) == metrics.means(parts)
    np.testing.assert_array_equal(whole["c"][0], parts["c"][0])
    expected = np.zeros((4, 4))
    for label, row in zip(labels, logits):
        expected[label, row.argmax()] += 1
    np.testing.assert_array_equal(whole["c"][0], expected)
    assert metrics.means(whole)["a"] == pytest.approx(np.trace(expected) / len(labels))


def test_a_metric_that_counted_nothing_is_nan_and_arrays_have_no_mean():
    means = metrics.means({"a": (jnp.zeros(()), 0.0), "c": (jnp.zeros((2, 2)), 4.0)})
    assert list(means) == ["a"] and math.isnan(means["a"])


def test_bits_are_nats_over_log_two():
    assert metrics.bits(math.log(8)) == pytest.approx(3)

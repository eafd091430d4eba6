"""Losses and metrics against hand values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nn_lib import losses, metrics, objectives
from nn_lib.checks import UserError
from nn_lib.models import Linear
from nn_lib.train import pictures


def test_cross_entropy_and_its_gradient_are_the_worked_example(x64):
    logits = jnp.array([1.0, 2.0, 3.0])
    loss, gradient = jax.value_and_grad(losses.cross_entropy)(logits, jnp.array(0))
    np.testing.assert_allclose(loss, 2.4076059644, atol=1e-9)
    np.testing.assert_allclose(gradient, [-0.90996943, 0.24472847, 0.66524096], atol=1e-8)


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
@given(st.sampled_from([1, 5, 30]), st.sampled_from([1, 4, 29]), st.integers(0, 99))
def test_a_metric_over_parts_is_the_metric_over_the_whole(length, cut, seed):
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(0, 4, length), rng.normal(size=(length, 4)).astype(np.float32)
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


def test_binary_cross_entropy_is_the_sum_of_the_worked_example(x64):
    p, y = np.array([0.8, 0.3]), jnp.array([1.0, 0.0])
    logits = jnp.asarray(np.log(p / (1 - p)))
    loss, gradient = jax.value_and_grad(losses.binary_cross_entropy)(logits, y)
    np.testing.assert_allclose(loss, 0.5798184953, atol=1e-9)
    np.testing.assert_allclose(loss / 2, 0.2899092476, atol=1e-9)
    np.testing.assert_allclose(gradient, p - np.asarray(y), atol=1e-9)


def test_regression_losses_and_their_slopes_are_by_hand():
    f, y = jnp.array([3.0, -0.5]), jnp.array([0.0, 0.0])
    cases = [
        (losses.squared, 9.25, [6.0, -1.0]),
        (losses.absolute, 3.5, [1.0, -1.0]),
        (losses.huber, 2.5 + 0.125, [1.0, -0.5]),
    ]
    for loss, value, slope in cases:
        found, gradient = jax.value_and_grad(loss)(f, y)
        assert float(found) == pytest.approx(value) and gradient.tolist() == slope


def test_top_k_is_that_of_scikit_learn():
    from sklearn.metrics import top_k_accuracy_score

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    for k in (1, 3, 6):
        right, count = metrics.top_k(jnp.asarray(logits), labels, jnp.ones(50, bool), k)
        expected = top_k_accuracy_score(labels, logits, k=k, labels=range(7))
        assert float(right / count) == pytest.approx(expected)


def test_a_tie_at_the_edge_of_top_k_counts_against_the_label():
    right, _ = metrics.top_k(jnp.zeros((1, 4)), jnp.array([0]), jnp.ones(1, bool), 3)
    assert float(right) == 0
    broken = jnp.array([[jnp.nan, 0.0]])
    assert float(metrics.top_k(broken, jnp.array([0]), jnp.ones(1, bool), 1)[0]) == 0


def test_r2_is_that_of_scikit_learn_also_over_parts_and_under_a_mask():
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(1)
    y = rng.normal(size=(40, 2)).astype(np.float32)
    f = y + 0.5 * rng.normal(size=y.shape).astype(np.float32)
    mask = np.arange(40) < 33
    parts = [
        {"r2": metrics.r_squared(f[part], y[part], mask[part])}
        for part in (slice(0, 10), slice(10, 40))
    ]
    found = metrics.means(metrics.add(parts))["r2"]
    assert found == pytest.approx(r2_score(y[mask], f[mask]), rel=1e-5)


def test_the_calibration_error_is_a_loop_over_bins():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(200, 3)).astype(np.float32) * 2, rng.integers(0, 3, 200)
    found = metrics.means(
        {
            "e/calibration_error": metrics.calibration(
                jnp.asarray(logits), labels, jnp.ones(200, bool)
            )
        }
    )
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = abs(confidence[inside].mean() - right[inside].mean())
            expected += inside.mean() * gap
    assert found["e/calibration_error"] == pytest.approx(expected, rel=1e-4)


def test_perplexity_is_the_exponential_of_the_mean_loss_never_an_overflow():
    assert metrics.means({"perplexity": (4 * math.log(5), 4)})["perplexity"] == pytest.approx(5)
    assert metrics.means({"perplexity": (1e6, 1)})["perplexity"] == math.inf


def batch(labels):
    inputs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    return {"inputs": inputs, "labels": labels, "mask": np.array([True, True, True, False])}


def test_several_labels_an_example_are_judged_each_and_together():
    labels = np.array([[1, 0], [0, 0], [1, 1], [1, 1]])
    model = Linear(num_classes=2)
    variables = jax.jit(model.init)(jax.random.key(0), batch(labels)["inputs"])
    loss, measured, _, _ = objectives.detect(model, variables, batch(labels), {}, None, False)
    z = np.asarray(model.apply(variables, batch(labels)["inputs"]), float)[:3]
    y, p = labels[:3], 1 / (1 + np.exp(-z))
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    means = metrics.means(measured)
    assert means["accuracy"] == pytest.approx(((z > 0) == y).mean())
    assert means["exact"] == pytest.approx(((z > 0) == y).all(1).mean())


def test_labels_that_do_not_fit_the_outputs_are_named():
    model = Linear(num_classes=2)
    variables = jax.jit(model.init)(jax.random.key(0), batch(None)["inputs"])
    expected = r"outputs are \[4, 2\], the labels \[4\]; set the model's number of outputs to 1"
    with pytest.raises(UserError, match=expected):
        objectives.regress(model, variables, batch(np.zeros(4)), {}, None, True)


def test_lenets_loss_pulls_the_right_penalty_down_and_pushes_the_others_up(x64):
    penalties = jnp.array([[2.0, 5.0, 0.5]])
    expected = 5 + np.log(np.exp(-1.5) + np.exp([-2, -5, -0.5]).sum())
    found = losses.maximum_a_posteriori(-penalties, jnp.array([1]), rubbish=1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Where nothing competes it is the penalty of the right class.
    far = jnp.array([[800.0, 5.0, 900.0]])
    alone = losses.maximum_a_posteriori(-far, jnp.array([1]), rubbish=700.0)
    np.testing.assert_allclose(alone, 5 - 5, atol=1e-12)
    slope = jax.grad(lambda y: losses.maximum_a_posteriori(-y, jnp.array([1])).sum())(penalties)
    assert slope[0, 1] > 0 > max(slope[0, 0], slope[0, 2])


def test_the_picture_of_a_thousand_classes_is_no_larger_than_that_of_thirty(tmp_path):
    matrix = np.eye(1000) * 50
    file = pictures.confusion_matrix(tmp_path, matrix, [str(i) for i in range(1000)], "test")
    width, height = Image.open(file).size
    assert 1000 <= width <= 1500 and 1000 <= height <= 1500

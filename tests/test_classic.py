"""Back-propagation by hand against autodiff and the worked example; the shallow pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.classic import by_hand
from nn_lib.classic.shallow import ShallowClassifier, orientation_votes
from nn_lib.layers import feature_maps
from tests.conftest import F

W1, W2, X = F((3, 2), 1), F((2, 3), 10), F((2,), 20)
Y = np.array([1.0, 0.0])


def network(weights):
    W1, W2 = weights
    return jax.nn.sigmoid(W2 @ jax.nn.sigmoid(W1 @ X))


def squared(weights):
    return jnp.sum((network(weights) - Y) ** 2)


def entropy(weights):
    p = network(weights)
    return -jnp.sum(Y * jnp.log(p) + (1 - Y) * jnp.log(1 - p))


def test_the_worked_two_layer_example():
    assert by_hand.squared_loss(W1, W2, X, Y) == pytest.approx(1.0214253990, abs=1e-9)
    found = by_hand.squared_loss_gradients(W1, W2, X, Y)
    np.testing.assert_allclose(
        found.W1,
        [[0.03751975, 0.03438443], [0.12428732, 0.11390134], [0.05890658, 0.05398409]],
        atol=1e-8,
    )
    np.testing.assert_allclose(
        found.W2,
        [[-0.23811103, -0.10908627, -0.07185601], [0.24076867, 0.11030382, 0.07265802]],
        atol=1e-8,
    )


@pytest.mark.parametrize(
    ("loss", "gradients", "twin"),
    [
        (by_hand.squared_loss, by_hand.squared_loss_gradients, squared),
        (by_hand.cross_entropy, by_hand.cross_entropy_gradients, entropy),
    ],
    ids=["squared", "cross_entropy"],
)
def test_gradients_by_hand_are_those_of_autodiff(x64, loss, gradients, twin):
    value, expected = jax.value_and_grad(twin)((jnp.asarray(W1), jnp.asarray(W2)))
    assert loss(W1, W2, X, Y) == pytest.approx(float(value), rel=1e-12)
    for ours, theirs in zip(gradients(W1, W2, X, Y), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_the_sign_printed_for_the_cross_entropy_would_ascend():
    gradients = by_hand.cross_entropy_gradients(W1, W2, X, Y)
    before = by_hand.cross_entropy(W1, W2, X, Y)
    assert by_hand.cross_entropy(W1, W2 - 0.1 * gradients.W2, X, Y) < before
    assert by_hand.cross_entropy(W1, W2 + 0.1 * gradients.W2, X, Y) > before


def test_xor_is_exact_and_no_line_separates_it():
    x1, x2 = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert by_hand.xor(x1, x2).tolist() == [0, 1, 1, 0]
    # The best line in the sense of least squares is the constant 1/2: it says nothing.
    lines = np.stack([np.ones(4), x1, x2], axis=1)
    fitted = lines @ np.linalg.lstsq(lines, np.array([0, 1, 1, 0]), rcond=None)[0]
    np.testing.assert_allclose(fitted, 0.5)


def test_polynomials_are_all_products_up_to_the_degree():
    x = jnp.array([[2.0, 3.0]])
    assert feature_maps.polynomial(x, degree=2).tolist() == [[2, 3, 4, 6, 9]]
    assert feature_maps.polynomial(x[:, :1], degree=3).tolist() == [[2, 4, 8]]
    found = feature_maps.sine(jnp.array([[0.5]]), frequency=3.0)
    np.testing.assert_allclose(found, [[0.5, np.sin(1.5)]], rtol=1e-6)


def test_an_edge_votes_for_the_direction_of_its_gradient():
    """A ramp to the right has the angle 0, one downwards a quarter turn (rows go down)."""
    right = np.tile(np.arange(6.0), (1, 6, 1))
    votes = orientation_votes(np.concatenate([right, right.transpose(0, 2, 1)]), 8)
    np.testing.assert_allclose(votes[0, 2, 2], [1, 0, 0, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(votes[1, 2, 2], [0, 0, 1, 0, 0, 0, 0, 0], atol=1e-6)
    between = orientation_votes(
        right * np.cos(np.pi / 8) + right.transpose(0, 2, 1) * np.sin(np.pi / 8), 8
    )
    np.testing.assert_allclose(between[0, 2, 2, :2], [0.5, 0.5], atol=1e-6)


def test_a_patch_is_described_by_a_loop_over_its_cells():
    images = np.random.default_rng(0).normal(size=(2, 7, 6)).astype(np.float32)
    model = ShallowClassifier(patch=4, stride=2, cells=2, orientations=8)
    found, votes = model.describe(images), orientation_votes(images, 8)
    assert found.shape == (2, 2, 2, 32)
    patch = votes[1, 2:6, 2:6]
    cells = [patch[a : a + 2, b : b + 2].sum((0, 1)) for a in (0, 2) for b in (0, 2)]
    expected = np.concatenate(cells)
    np.testing.assert_allclose(found[1, 1, 1], expected / np.linalg.norm(expected), rtol=1e-5)


def test_a_bag_forgets_where_its_items_are_and_regions_do_not():
    rng = np.random.default_rng(0)
    images = np.zeros((60, 20, 20), np.float32)
    images[:, 7:13, 6:9] = rng.normal(size=(60, 6, 3))
    moved = np.roll(images, 5, axis=2)  # away from every border on both sides
    both, labels = np.concatenate([images, moved]), np.repeat([0, 1], 60)
    scores = {}
    for regions in (1, 2):
        model = ShallowClassifier(codes=20, regions=regions).fit(both[::2], labels[::2])
        assert model.encode(both).shape == (120, regions**2 * 20)
        scores[regions] = np.mean(model.predict(both[1::2]) == labels[1::2])
    assert scores[2] > 0.95 and scores[1] < 0.7

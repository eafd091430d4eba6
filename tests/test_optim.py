"""Optimizers against the lecture's worked trajectories, and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nn_lib.checks import UserError
from nn_lib.optim import OptimizerConfig, build_optimizer


def trajectory(config, steps=3):
    """The first points from (1, 1) on (x^2 + 10 y^2) / 2."""
    optimizer, _ = build_optimizer(config)
    point = jnp.array([1.0, 1.0])
    state = optimizer.init(point)
    points = []
    for _ in range(steps):
        updates, state = optimizer.update(point * jnp.array([1.0, 10.0]), state, point)
        point = optax.apply_updates(point, updates)
        points.append(point)
    return np.array(points)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", [(0.95, 0.5), (0.9025, 0.25), (0.857375, 0.125)]),
        ("momentum", [(0.95, 0.5), (0.8575, -0.2), (0.731375, -0.73)]),
        ("adam", [(0.95, 0.95), (0.90008324, 0.90008324), (0.85031170, 0.85031170)]),
    ],
)
def test_trajectories_are_the_worked_ones(x64, name, expected):
    found = trajectory(OptimizerConfig(name=name, learning_rate=0.05))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_global_norm_is_clipped_over_all_leaves_jointly(x64):
    optimizer, _ = build_optimizer(OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=1.0))
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose([-updates["a"][0], -updates["b"][0]], [0.6, 0.8])


def test_values_are_clipped_before_the_norm(x64):
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_value=3.0, clip_norm=1.0)
    optimizer, _ = build_optimizer(config)
    gradient = jnp.array([3.0, 400.0])
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(-updates, [0.5**0.5, 0.5**0.5])


def test_the_cosine_schedule_warms_up_peaks_halves_and_ends_at_zero():
    _, schedule = build_optimizer(
        OptimizerConfig(schedule="cosine", learning_rate=2.0, warmup_steps=10, decay_steps=110)
    )
    found = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(found, [0, 1, 2, 1, 0], atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_fifty_random_steps_equal_torch(x64, torch, name):
    optimizer, _ = build_optimizer(OptimizerConfig(name=name, learning_rate=0.03))
    twins = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.03),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.03),
    }
    ours = jnp.linspace(-1, 1, 6)
    theirs = torch.tensor(np.array(ours), requires_grad=True)
    state, twin = optimizer.init(ours), twins[name]([theirs])
    for key in jax.random.split(jax.random.key(1), 50):
        gradient = jax.random.normal(key, ours.shape)
        updates, state = optimizer.update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)
        theirs.grad = torch.tensor(np.array(gradient))
        twin.step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adm"}, r"optimizer.name 'adm' is unknown; did you mean adam"),
        ({"variant": "lectur"}, r"optimizer.variant 'lectur' is unknown"),
        ({"schedule": "cosin"}, r"optimizer.schedule 'cosin' is unknown; did you mean cosine"),
        (
            {"schedule": "cosine"},
            r"needs optimizer.decay_steps above the 0 warm-up steps, got None",
        ),
        ({"learning_rate": 0.0}, r"optimizer.learning_rate must be above 0, got 0.0"),
        ({"learning_rate": float("nan")}, r"must be above 0, got nan"),
        ({"clip_norm": -1.0}, r"optimizer.clip_norm must be above 0, got -1.0"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(OptimizerConfig(**fields))

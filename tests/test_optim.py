"""Optimizers against the lecture's worked trajectories, and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nn_lib.checks import UserError
from nn_lib.optim import (
    OptimizerConfig,
    build_optimizer,
    gradient_params,
    learning_rate_scale,
    plateau,
)


def run(config, gradient_of, point, steps):
    """The points after each step, the gradient taken where the rule wants it."""
    optimizer, _ = build_optimizer(config)
    state = optimizer.init(point)
    points = []
    for _ in range(steps):
        gradient = gradient_of(gradient_params(point, state))
        updates, state = optimizer.update(gradient, state, point)
        point = optax.apply_updates(point, updates)
        points.append(point)
    return np.array(points), state


def trajectory(config, steps=3):
    """The first points from (1, 1) on (x^2 + 10 y^2) / 2."""
    point = jnp.array([1.0, 1.0])
    return run(config, lambda at: at * jnp.array([1.0, 10.0]), point, steps)[0]


def both(*values):
    return [(value, value) for value in values]


NESTEROV = [(0.905, 0.05), (0.778525, -0.4025), (0.63146262, -0.40487500)]


@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [
        ("sgd", "optax", [(0.95, 0.5), (0.9025, 0.25), (0.857375, 0.125)]),
        ("sgd", "lecture", [(0.95, 0.5), (0.9025, 0.25), (0.857375, 0.125)]),
        ("momentum", "optax", [(0.95, 0.5), (0.8575, -0.2), (0.731375, -0.73)]),
        ("momentum", "lecture", [(0.95, 0.5), (0.8575, -0.2), (0.731375, -0.73)]),
        ("momentum", "alexnet", [(0.95, 0.5), (0.8575, -0.2), (0.731375, -0.73)]),
        ("nesterov", "lookahead", [(0.95, 0.5), (0.85975, 0.025), (0.73959875, -0.20125)]),
        ("nesterov", "lecture", NESTEROV),
        ("nesterov", "optax", NESTEROV),
        ("adagrad", "lecture", both(0.95, 0.91556253, 0.88791077)),
        ("adagrad", "min_char_rnn", both(0.95, 0.91556253, 0.88791077)),
        ("rmsprop", "lecture", both(0.84188617, 0.73693773, 0.65435902)),
        ("adam", "lecture", both(0.84188617, 0.63113272, 0.39147127)),
        ("adam", "optax", both(0.95, 0.90008324, 0.85031170)),
    ],
)
def test_trajectories_are_the_worked_ones(x64, name, variant, expected):
    found = trajectory(OptimizerConfig(name=name, variant=variant, learning_rate=0.05))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "factor"),
    [
        ({"name": "adagrad", "variant": "lecture"}, 1.0),
        ({"name": "adagrad", "variant": "min_char_rnn"}, 1.0),
        ({"name": "rmsprop", "variant": "lecture", "rms_decay": 0.9}, 3.16227766),
        ({"name": "rmsprop", "variant": "lecture", "rms_decay": 0.99}, 10.0),
        ({"name": "adam", "variant": "lecture"}, 3.16227766),
        ({"name": "adam"}, 1.0),
    ],
)
def test_the_first_step_of_an_adaptive_rule_has_its_size_whatever_the_gradient(x64, fields, factor):
    gradient = jnp.array([1e3, -50.0])
    config = OptimizerConfig(learning_rate=0.01, **fields)
    points, _ = run(config, lambda at: gradient, jnp.zeros(2), 1)
    np.testing.assert_allclose(points[0], -0.01 * factor * np.sign(gradient), rtol=1e-6)


def test_the_two_forms_of_nesterov_are_one_at_every_step(x64):
    """x~ = x + rho v, with the gradient of a function that is not quadratic."""
    start, rho = jnp.array([1.0, -2.0, 0.5]), 0.95

    def gradient_of(x):
        return jnp.sin(x) + x**3 / 10

    fields = {"name": "nesterov", "learning_rate": 0.1, "momentum": rho}
    moved, _ = run(OptimizerConfig(variant="lecture", **fields), gradient_of, start, 40)
    for steps in (1, 2, 5, 40):
        ahead = OptimizerConfig(variant="lookahead", **fields)
        points, state = run(ahead, gradient_of, start, steps)
        np.testing.assert_allclose(
            gradient_params(jnp.asarray(points[-1]), state), moved[steps - 1], rtol=1e-12
        )


def test_the_optax_forms_are_those_of_optax(x64):
    gradients = jax.random.normal(jax.random.key(0), (20, 5))
    twins = {
        "sgd": optax.sgd(0.03),
        "momentum": optax.sgd(0.03, momentum=0.9),
        "nesterov": optax.sgd(0.03, momentum=0.9, nesterov=True),
        "adagrad": optax.adagrad(0.03),
        "rmsprop": optax.rmsprop(0.03),
        "adam": optax.adam(0.03),
        "adamw": optax.adamw(0.03),
    }
    for name, twin in twins.items():
        optimizer, _ = build_optimizer(OptimizerConfig(name=name, learning_rate=0.03))
        ours = theirs = jnp.linspace(-1, 1, 5)
        state, other = optimizer.init(ours), twin.init(theirs)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, ours)
            ours = optax.apply_updates(ours, updates)
            updates, other = twin.update(gradient, other, theirs)
            theirs = optax.apply_updates(theirs, updates)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, err_msg=name)


def test_alexnets_update_is_that_of_its_paper_across_a_change_of_the_rate(x64):
    config = OptimizerConfig(
        name="momentum",
        variant="alexnet",
        learning_rate=0.1,
        weight_decay=0.0005,
        schedule="step",
        boundaries=(3,),
    )
    gradients = np.random.default_rng(0).normal(size=(6, 4))
    optimizer, _ = build_optimizer(config)
    ours = jnp.ones(4)
    state = optimizer.init(ours)
    w, v = np.ones(4), np.zeros(4)
    for step, g in enumerate(gradients):
        updates, state = optimizer.update(jnp.asarray(g), state, ours)
        ours = optax.apply_updates(ours, updates)
        epsilon = 0.1 if step < 3 else 0.01
        v = 0.9 * v - 0.0005 * epsilon * w - epsilon * g
        w = w + v
        np.testing.assert_allclose(ours, w, rtol=1e-12)


def test_the_global_norm_is_clipped_over_all_leaves_jointly(x64):
    optimizer, _ = build_optimizer(OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=1.0))
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose([-updates["a"][0], -updates["b"][0]], [0.6, 0.8])


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(1.0, [0.6, 0.8]), (5.0, [3.0, 4.0]), (10.0, [3.0, 4.0]), (30.0, [3.0, 4.0])],
)
def test_the_rule_that_was_meant_leaves_smaller_gradients_alone(x64, threshold, expected):
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=threshold)
    optimizer, _ = build_optimizer(config)
    gradient = jnp.array([3.0, 4.0])
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(-updates, expected, rtol=1e-12)


def test_values_are_clipped_before_the_norm(x64):
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_value=3.0, clip_norm=1.0)
    optimizer, _ = build_optimizer(config)
    gradient = jnp.array([3.0, 400.0])
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(-updates, [0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(1.0, [0.12, 0.16]), (5.0, [0.6, 0.8]), (10.0, [1.2, 1.6]), (30.0, [3.0, 4.0])],
)
def test_the_lectures_clip_divides_by_the_squared_norm(x64, threshold, expected):
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_squared_norm=threshold)
    optimizer, _ = build_optimizer(config)
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose([-updates["a"][0], -updates["b"][0]], expected)


def test_a_layer_is_clipped_by_its_own_norm_kernel_and_bias_together(x64):
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_per_layer=1.0)
    optimizer, _ = build_optimizer(config)
    gradient = {
        "large": {"kernel": jnp.array([3.0]), "bias": jnp.array([4.0])},
        "small": {"kernel": jnp.array([0.3]), "bias": jnp.array([0.4])},
        "zero": {"kernel": jnp.zeros(1)},
    }
    updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    found = jax.tree.map(lambda u: float(-u[0]), updates)
    assert found["large"] == pytest.approx({"kernel": 0.6, "bias": 0.8})
    assert found["small"] == pytest.approx({"kernel": 0.3, "bias": 0.4})
    assert found["zero"] == {"kernel": 0.0}


PARAMS = {
    "Conv_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "BatchNorm_0": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def one_step(gradient=ZERO, params=PARAMS, **fields):
    optimizer, _ = build_optimizer(OptimizerConfig(**fields))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_spares_biases_and_norms_unless_told(decoupled):
    fields = {"name": "sgd", "learning_rate": 0.5, "weight_decay": 0.1, "decoupled": decoupled}
    after = one_step(**fields)
    np.testing.assert_allclose(after["Conv_0"]["kernel"], 0.95)
    np.testing.assert_allclose(after["head"]["kernel"], 0.95)
    for layer, name in (("Conv_0", "bias"), ("BatchNorm_0", "scale"), ("BatchNorm_0", "bias")):
        np.testing.assert_array_equal(after[layer][name], 1.0)
    everything = jax.tree.leaves(one_step(**fields, no_decay=()))
    np.testing.assert_allclose(np.concatenate([leaf.ravel() for leaf in everything]), 0.95)


def test_coupled_decay_goes_through_adam_and_decoupled_decay_does_not():
    fields = {"name": "adam", "learning_rate": 0.01, "weight_decay": 0.1}
    coupled = one_step(**fields)["head"]["kernel"]
    decoupled = one_step(**fields, decoupled=True)["head"]["kernel"]
    np.testing.assert_allclose(coupled, 1 - 0.01, rtol=1e-5)  # the sign of the gradient
    np.testing.assert_allclose(decoupled, 1 - 0.01 * 0.1, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adagrad", "adamw"])
def test_frozen_parameters_keep_their_bits_and_add_nothing_to_the_norm(name):
    params = {**PARAMS, "Conv_0": {"kernel": jnp.array([[-0.0, 1.0]]), "bias": jnp.zeros(2)}}
    gradient = jax.tree.map(lambda p: jnp.full_like(p, 10.0), params)
    frozen = ("Conv_0", "Batch*.scale")
    fields = {"name": name, "learning_rate": 0.1, "weight_decay": 0.1, "clip_norm": 1.0}
    after = one_step(gradient, params, **fields, frozen=frozen)
    for layer, leaf in (("Conv_0", "kernel"), ("Conv_0", "bias"), ("BatchNorm_0", "scale")):
        assert np.array(after[layer][leaf]).tobytes() == np.array(params[layer][leaf]).tobytes()
    rest = {"BatchNorm_0": {"bias": gradient["BatchNorm_0"]["bias"]}, "head": gradient["head"]}
    kept = {"BatchNorm_0": {"bias": params["BatchNorm_0"]["bias"]}, "head": params["head"]}
    expected = one_step(rest, kept, **fields)
    np.testing.assert_allclose(after["head"]["kernel"], expected["head"]["kernel"])
    assert not np.array_equal(after["head"]["kernel"], params["head"]["kernel"])


def test_rates_differ_by_path_and_the_first_match_counts():
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    rates = (("head", 1.0), ("*.kernel", 0.1), ("*", 0.5))
    after = one_step(gradient, name="sgd", learning_rate=0.1, rates=rates)
    found = {k: 1 - float(v.ravel()[0]) for k, v in after["Conv_0"].items()}
    assert found == pytest.approx({"kernel": 0.01, "bias": 0.05}, rel=1e-5)
    assert 1 - float(after["head"]["kernel"][0, 0]) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("field", ["frozen", "rates"])
def test_a_pattern_that_matches_nothing_lists_the_paths(field):
    pattern = ("Conv_1",) if field == "frozen" else (("Conv_1", 0.1),)
    optimizer, _ = build_optimizer(OptimizerConfig(**{field: pattern}))
    expected = rf"optimizer.{field}: 'Conv_1' matches no parameter; .* Conv_0.bias, Conv_0.kernel"
    with pytest.raises(UserError, match=expected):
        optimizer.init(PARAMS)


def test_a_plateau_drops_the_rate_after_patience_validations_without_a_new_best():
    config = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="plateau", patience=2)
    optimizer, _ = build_optimizer(config)
    state = optimizer.init(jnp.zeros(1))
    scales = []
    for accuracy in (0.5, 0.6, 0.6, float("nan"), 0.7, 0.1, 0.2, 0.3, 0.4):
        state = plateau.observe(state, accuracy, factor=0.1, patience=2, mode="max")
        scales.append(round(float(learning_rate_scale(state)), 6))
    assert scales == [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001]
    updates, _ = optimizer.update(jnp.ones(1), state, jnp.zeros(1))
    np.testing.assert_allclose(updates, -0.001, rtol=1e-5)


def test_the_step_schedule_drops_at_its_boundaries():
    _, schedule = build_optimizer(
        OptimizerConfig(schedule="step", learning_rate=1.0, boundaries=(3, 6), warmup_steps=2)
    )
    found = [float(schedule(step)) for step in range(8)]
    np.testing.assert_allclose(found, [0, 0.5, 1, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_the_exponential_schedule_has_fallen_to_its_rate_at_the_end():
    _, schedule = build_optimizer(
        OptimizerConfig(schedule="exponential", learning_rate=2.0, decay_steps=100, decay_rate=0.01)
    )
    found = [float(schedule(step)) for step in (0, 50, 100)]
    np.testing.assert_allclose(found, [2, 0.2, 0.02], rtol=1e-5)


def test_the_cosine_schedule_warms_up_peaks_halves_and_ends_at_zero():
    _, schedule = build_optimizer(
        OptimizerConfig(schedule="cosine", learning_rate=2.0, warmup_steps=10, decay_steps=110)
    )
    found = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(found, [0, 1, 2, 1, 0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize(
    ("fields", "twin"),
    [
        ({"name": "sgd"}, ("SGD", {})),
        ({"name": "sgd", "weight_decay": 0.1}, ("SGD", {"weight_decay": 0.1})),
        ({"name": "momentum"}, ("SGD", {"momentum": 0.9})),
        ({"name": "nesterov"}, ("SGD", {"momentum": 0.9, "nesterov": True})),
        # torch's forms of these two are the printed ones.
        ({"name": "adagrad", "variant": "lecture", "epsilon": 1e-10}, ("Adagrad", {})),
        (
            {"name": "rmsprop", "variant": "lecture", "rms_decay": 0.99, "epsilon": 1e-8},
            ("RMSprop", {}),
        ),
        ({"name": "adam"}, ("Adam", {})),
        ({"name": "adam", "weight_decay": 0.1}, ("Adam", {"weight_decay": 0.1})),
        ({"name": "adamw", "weight_decay": 0.1}, ("AdamW", {"weight_decay": 0.1})),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value[0],
)
def test_fifty_random_steps_equal_torch(x64, torch, fields, twin):
    optimizer, _ = build_optimizer(OptimizerConfig(learning_rate=0.03, **fields))
    ours = jnp.linspace(-1, 1, 6)
    theirs = torch.tensor(np.array(ours), requires_grad=True)
    kind, options = twin
    state, twin = optimizer.init(ours), getattr(torch.optim, kind)([theirs], lr=0.03, **options)
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
        ({"name": "adam", "variant": "lookahead"}, r"optimizer.variant 'lookahead' is unknown"),
        ({"schedule": "step"}, r"needs optimizer.boundaries, update numbers that increase"),
        ({"schedule": "step", "boundaries": (9, 3)}, r"that increase, .* got \(9, 3\)"),
        ({"decay_rate": 1.5}, r"optimizer.decay_rate must lie between 0 and 1, got 1.5"),
        ({"weight_decay": -0.1}, r"optimizer.weight_decay must not be negative, got -0.1"),
        ({"frozen": "head"}, r"optimizer.frozen must be a tuple of patterns, got 'head'"),
        ({"rates": ("head", 0.1)}, r"optimizer.rates must hold pairs"),
        ({"rates": (("head", "x"),)}, r"the factor of 'head' must be a number, 0 or more, got 'x'"),
        ({"schedule": "step", "boundaries": ("a",)}, r"that increase, .* got \('a',\)"),
        (
            {"name": "momentum", "variant": "alexnet", "decoupled": True},
            r"optimizer.decoupled does not go with momentum's variant 'alexnet'",
        ),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(OptimizerConfig(**fields))

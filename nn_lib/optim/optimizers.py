"""The only place that chains gradient transformations.

clip -> coupled decay -> rule -> decoupled decay -> learning rate, rates by path, plateau
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from nn_lib.checks import UserError, check_choice
from nn_lib.optim import paths
from nn_lib.optim.clipping import clip_by_squared_norm, clip_per_layer
from nn_lib.optim.plateau import scale_by_plateau
from nn_lib.optim.rules import RULES
from nn_lib.optim.schedules import build_schedule


@dataclasses.dataclass
class OptimizerConfig:
    """What `build_optimizer` builds. Patterns are those of `nn_lib.optim.paths`.

    Attributes:
      name: 'sgd', 'momentum', 'nesterov', 'adagrad', 'rmsprop', 'adam' or 'adamw'.
      variant: 'optax', the form that Optax ships, or 'lecture', as printed: AdaGrad from zero with
        epsilon outside the root, RMSProp likewise, Adam without bias correction, Nesterov with the
        rate inside the velocity. Also momentum's 'alexnet' (rate and decay inside the velocity),
        nesterov's 'lookahead' (the gradient taken at x + rho v), adagrad's 'min_char_rnn' (from
        zero, epsilon inside the root).
      learning_rate: the peak of the schedule.
      momentum: rho of `v = rho v + g; x -= a v`.
      rms_decay: d of RMSProp's `s = d s + (1 - d) g^2`.
      b1: Adam's decay of the first moment.
      b2: Adam's decay of the second moment.
      epsilon: beside the root of the second moment; None takes the rule's own, 1e-8 for Adam.
      clip_value: clip every gradient entry to [-clip_value, clip_value].
      clip_per_layer: scale each layer's gradient so that its norm is at most this; after
        `clip_value`.
      clip_norm: scale the gradient so that its global norm is at most this; after those.
      clip_squared_norm: the threshold of the lectures' squared-norm rule; after those.
      weight_decay: w += decay * parameter, to the gradient (coupled, L2) or, decoupled, to what
        the rule makes of it (both times the learning rate); None means 1e-4 for adamw, as Optax
        has it, and 0 for the others.
      decoupled: decay apart from the rule, as adamw always does (Loshchilov & Hutter 2019).
      no_decay: patterns of the parameters that do not decay; () decays all.
      frozen: patterns of the parameters that stay bit for bit as they are, in `fit` with the
        running statistics below them.
      rates: pairs (pattern, factor) on the learning rate; the first that matches counts.
      schedule: 'constant', 'step', 'exponential', 'cosine', or 'plateau', which validation drives.
      warmup_steps: linear warm-up from 0.
      decay_steps: the update at which `cosine` is 0 and `exponential` at `decay_rate`; `fit` fills
        in `num_steps`.
      decay_rate: the factor of a drop in `step` and `plateau`, and at the end of `exponential`.
      boundaries: the updates after which `step` drops.
      patience: validations in a row without a new best after which `plateau` drops.
    """

    name: str = "adam"
    variant: str = "optax"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    rms_decay: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float | None = None
    clip_value: float | None = None
    clip_per_layer: float | None = None
    clip_norm: float | None = None
    clip_squared_norm: float | None = None
    weight_decay: float | None = None
    decoupled: bool = False
    no_decay: tuple[str, ...] = ("*bias*", "*scale")
    frozen: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    schedule: str = "constant"
    warmup_steps: int = 0
    decay_steps: int | None = None
    decay_rate: float = 0.1
    boundaries: tuple[int, ...] = ()
    patience: int = 5


def build_optimizer(
    config: OptimizerConfig,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transformation that `config` describes, and its learning rate as a function of updates.

    With variant 'lookahead' the gradient is to be taken at `gradient_params`; with schedule
    'plateau' the learning rate is the schedule times `learning_rate_scale`.

    Raises:
      UserError: a field that cannot be meant; from `init`, a pattern that matches no parameter.
    """
    _check(config)
    rule = RULES[config.name][config.variant]
    if config.epsilon is None:
        config = dataclasses.replace(config, epsilon=rule.epsilon)
    schedule = build_schedule(
        config.schedule,
        config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.decay_steps,
        decay_rate=config.decay_rate,
        boundaries=config.boundaries,
    )
    transform, rate = rule.transform(config), _learning_rate(config, schedule)
    steps = [rate, transform] if rule.rate_inside else [transform, rate]
    decay = _weight_decay(config)
    if config.name == "adamw" or config.decoupled:
        steps.insert(1, decay)
    else:
        steps.insert(0, decay)
    return _frozen(config, optax.chain(*_clipping(config), *steps)), schedule


def _clipping(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    kinds = (
        (optax.clip, config.clip_value),
        (clip_per_layer, config.clip_per_layer),
        (optax.clip_by_global_norm, config.clip_norm),
        (clip_by_squared_norm, config.clip_squared_norm),
    )
    return [clip(bound) for clip, bound in kinds if bound is not None]


def _weight_decay(config: OptimizerConfig) -> optax.GradientTransformation:
    rate = config.weight_decay
    if rate is None:
        rate = 1e-4 if config.name == "adamw" else 0.0
    if not rate:
        return optax.identity()

    def decays(params):
        return jax.tree.map(lambda excluded: not excluded, paths.mask(params, config.no_decay))

    return optax.add_decayed_weights(rate, mask=decays)


def _learning_rate(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    parts = [optax.scale_by_learning_rate(schedule)]
    if config.rates:
        parts.append(_scale_by_path(config.rates))
    if config.schedule == "plateau":
        parts.append(scale_by_plateau())
    return optax.chain(*parts)


def _scale_by_path(rates) -> optax.GradientTransformation:
    def init(params):
        paths.check_patterns("optimizer.rates", [pattern for pattern, _ in rates], params)
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params

        def scale(keys, u):
            path = paths.path_of(keys)
            return u * next((f for pattern, f in rates if paths.matches(path, pattern)), 1.0)

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)


def _frozen(
    config: OptimizerConfig, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Hides the frozen parameters from `inner`: from its norms, its decay and its state."""
    if not config.frozen:
        return inner

    def trained(tree):
        return jax.tree.map(lambda frozen: not frozen, paths.mask(tree, config.frozen))

    masked = optax.masked(inner, trained)

    def init(params):
        paths.check_patterns("optimizer.frozen", config.frozen, params)
        return masked.init(params)

    def update(updates, state, params=None):
        updates, state = masked.update(updates, state, params)
        # x + -0.0 is x for every x; x + 0.0 would turn -0.0 into 0.0.
        held = jax.tree.map(
            lambda u, keep: u if keep else jnp.full_like(u, -0.0), updates, trained(updates)
        )
        return held, state

    return optax.GradientTransformation(init, update)


def _check(config: OptimizerConfig) -> None:
    positive = ("learning_rate", "clip_value", "clip_per_layer", "clip_norm", "clip_squared_norm")
    for field in positive:
        value = getattr(config, field)
        if value is not None and not value > 0:
            raise UserError(f"optimizer.{field} must be above 0, got {value}")
    for field in ("momentum", "rms_decay", "b1", "b2"):
        value = getattr(config, field)
        if not 0 <= value < 1:
            raise UserError(f"optimizer.{field} must be at least 0 and below 1, got {value}")
    for field in ("warmup_steps", "epsilon", "weight_decay"):
        value = getattr(config, field)
        if value is not None and not value >= 0:
            raise UserError(f"optimizer.{field} must not be negative, got {value}")
    if not 0 < config.decay_rate < 1:
        raise UserError(
            f"optimizer.decay_rate must lie between 0 and 1, got {config.decay_rate}; it is what a "
            "drop multiplies the learning rate by"
        )
    if config.patience < 1:
        raise UserError(f"optimizer.patience must be at least 1, got {config.patience}")
    for field in ("no_decay", "frozen"):
        value = getattr(config, field)
        if isinstance(value, str) or not all(isinstance(pattern, str) for pattern in value):
            raise UserError(f"optimizer.{field} must be a tuple of patterns, got {value!r}")
    for pair in config.rates:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise UserError(f"optimizer.rates must hold pairs (pattern, factor), got {pair!r}")
        if not (isinstance(pair[1], int | float) and pair[1] >= 0):
            raise UserError(
                f"optimizer.rates: the factor of {pair[0]!r} must be a number, 0 or more, got "
                f"{pair[1]!r}"
            )
    check_choice("optimizer.name", config.name, RULES)
    check_choice("optimizer.variant", config.variant, RULES[config.name])
    if config.decoupled and RULES[config.name][config.variant].rate_inside:
        raise UserError(
            f"optimizer.decoupled does not go with {config.name}'s variant {config.variant!r}, "
            "whose velocity holds the learning rate; leave it False"
        )

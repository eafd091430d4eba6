"""The only place that chains gradient transformations: clip -> transform -> learning rate."""

import dataclasses

import optax

from nn_lib.checks import UserError, check_choice
from nn_lib.optim.schedules import build_schedule

VARIANTS = ("optax",)


@dataclasses.dataclass
class OptimizerConfig:
    """What `build_optimizer` builds.

    Attributes:
      name: 'sgd', 'momentum' or 'adam'.
      variant: 'optax', the form that Optax ships.
      learning_rate: the peak of the schedule.
      momentum: rho of `v = rho v + g; x -= a v`.
      b1: Adam's decay of the first moment.
      b2: Adam's decay of the second moment.
      epsilon: added to the root of Adam's second moment.
      clip_norm: scale the gradient so that its global norm is at most this; None does not clip.
      clip_value: clip every gradient entry to [-clip_value, clip_value]; before `clip_norm`.
      schedule: 'constant' or 'cosine'.
      warmup_steps: linear warm-up from 0.
      decay_steps: the update at which a decaying schedule ends; `fit` fills in `num_steps`.
    """

    name: str = "adam"
    variant: str = "optax"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = None
    clip_value: float | None = None
    schedule: str = "constant"
    warmup_steps: int = 0
    decay_steps: int | None = None


def build_optimizer(
    config: OptimizerConfig,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transformation that `config` describes, and its learning rate as a function of updates.

    Raises:
      UserError: an unknown name, variant or schedule, or a rate or bound that is not positive.
    """
    for field in ("learning_rate", "clip_norm", "clip_value"):
        value = getattr(config, field)
        if value is not None and not value > 0:
            raise UserError(f"optimizer.{field} must be above 0, got {value}")
    for field in ("momentum", "b1", "b2"):
        value = getattr(config, field)
        if not 0 <= value < 1:
            raise UserError(f"optimizer.{field} must be at least 0 and below 1, got {value}")
    if config.warmup_steps < 0:
        raise UserError(f"optimizer.warmup_steps must not be negative, got {config.warmup_steps}")
    check_choice("optimizer.name", config.name, TRANSFORMS)
    check_choice("optimizer.variant", config.variant, VARIANTS)
    schedule = build_schedule(
        config.schedule,
        config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.decay_steps,
    )
    parts = []
    if config.clip_value is not None:
        parts.append(optax.clip(config.clip_value))
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    parts.append(TRANSFORMS[config.name](config))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts), schedule


TRANSFORMS = {
    "sgd": lambda config: optax.identity(),
    "momentum": lambda config: optax.trace(decay=config.momentum),
    "adam": lambda config: optax.scale_by_adam(config.b1, config.b2, config.epsilon),
}

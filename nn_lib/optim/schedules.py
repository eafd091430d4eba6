"""Learning-rate schedules: functions of the number of updates made so far."""

import optax

from nn_lib.checks import UserError, check_choice

SCHEDULES = ("constant", "cosine")


def build_schedule(
    name: str, learning_rate: float, *, warmup_steps: int = 0, decay_steps: int | None = None
) -> optax.Schedule:
    """The schedule called `name`, preceded by a linear warm-up from 0 over `warmup_steps`.

    `cosine` falls from `learning_rate` to 0 at update `decay_steps`, the warm-up included
    (Loshchilov & Hutter 2017, without restarts); `constant` stays.
    """
    check_choice("optimizer.schedule", name, SCHEDULES)
    if name == "constant":
        decay = optax.constant_schedule(learning_rate)
    else:
        if decay_steps is None or decay_steps <= warmup_steps:
            raise UserError(
                f"the cosine schedule needs optimizer.decay_steps above the {warmup_steps} warm-up "
                f"steps, got {decay_steps}; set it to the number of steps of the run"
            )
        decay = optax.cosine_decay_schedule(learning_rate, decay_steps - warmup_steps)
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])

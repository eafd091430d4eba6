"""Learning-rate schedules: functions of the number of updates made so far."""

from collections.abc import Sequence

import optax

from nn_lib.checks import UserError, check_choice

SCHEDULES = ("constant", "step", "exponential", "cosine", "plateau")
DEPEND_ON_LENGTH = ("exponential", "cosine")


def build_schedule(
    name: str,
    learning_rate: float,
    *,
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    decay_rate: float = 0.1,
    boundaries: Sequence[int] = (),
) -> optax.Schedule:
    """The schedule called `name`, preceded by a linear warm-up from 0 over `warmup_steps`.

    Updates are counted from the first, the warm-up included.

    - `constant` stays at `learning_rate`; so does `plateau`, which validation scales.
    - `step` multiplies by `decay_rate` at each of `boundaries`.
    - `exponential` has fallen to `decay_rate * learning_rate` at `decay_steps`, and goes on.
    - `cosine` falls to 0 at `decay_steps` (Loshchilov & Hutter 2017, without restarts).

    Raises:
      UserError: an unknown name, boundaries that do not increase, an end before the beginning.
    """
    check_choice("optimizer.schedule", name, SCHEDULES)
    if name == "step":
        whole = all(isinstance(boundary, int) and boundary > 0 for boundary in boundaries)
        if not boundaries or not whole or list(boundaries) != sorted({*boundaries}):
            raise UserError(
                "the step schedule needs optimizer.boundaries, update numbers that increase, as in "
                f"(32000, 48000); got {tuple(boundaries)}"
            )
        if boundaries[0] < warmup_steps:
            raise UserError(
                f"optimizer.boundaries {tuple(boundaries)} begin within the {warmup_steps} warm-up "
                "steps"
            )
        drops = {boundary - warmup_steps: decay_rate for boundary in boundaries}
        decay = optax.piecewise_constant_schedule(learning_rate, drops)
    elif name in DEPEND_ON_LENGTH:
        if decay_steps is None or decay_steps <= warmup_steps:
            raise UserError(
                f"the {name} schedule needs optimizer.decay_steps above the {warmup_steps} warm-up "
                f"steps, got {decay_steps}; set it to the number of steps of the run"
            )
        length = decay_steps - warmup_steps
        if name == "cosine":
            decay = optax.cosine_decay_schedule(learning_rate, length)
        else:
            decay = optax.exponential_decay(learning_rate, length, decay_rate)
    else:
        decay = optax.constant_schedule(learning_rate)
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])

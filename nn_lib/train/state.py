"""The training state: one pytree of data that is all a run needs to go on."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

# What every step measures beside its objective: global norms of the gradient, and of the update
# over that of the parameters.
STEP_METRICS = ("gradient_norm", "update_to_weight")


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and replaces; no functions, so it saves and shards as data.

    Attributes:
      step: steps taken, also the number of the next batch: the data position.
      params: the model's parameters.
      model_state: its mutable collections, such as batch statistics.
      opt_state: the optimizer's.
      ema: the exponential moving average of the parameters, which is what is then evaluated, or
        None.
      carry: the recurrent state that the next window continues from; None without one.
      rng: key data from which every step folds its own keys.
      metrics: {name: (sum, count)} since the last line of training metrics.
      bad_steps: consecutive steps skipped for a loss or gradient that was not finite.
      skipped_steps: such steps in all.
      smooth_loss: the moving average of the loss, or None.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    carry: Any
    rng: jax.Array
    metrics: dict[str, tuple[jax.Array, jax.Array]]
    bad_steps: jax.Array
    skipped_steps: jax.Array
    smooth_loss: jax.Array | None = None

    @property
    def evaluated(self) -> dict[str, Any]:
        """The variables that are evaluated: averaged parameters where they are kept."""
        params = self.params if self.ema is None else self.ema
        return {"params": params, **self.model_state}


def create_state(
    model,
    objective,
    optimizer,
    batch,
    carry,
    seed: int,
    *,
    ema: bool = False,
    smooth_loss: float | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      batch: an example batch; only its shapes matter, apart from what the model's init reads.
      carry: the initial recurrent state, or None.
      seed: of the parameters and of all later noise.
      ema: whether a moving average of the parameters is kept.
      smooth_loss: what the moving average of the loss begins at; None keeps none.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    # Compiled, the forward pass that init writes falls away: only the parameters are computed.
    variables = jax.jit(model.init)(init_key, batch["inputs"])
    params = variables["params"]
    model_state = {name: tree for name, tree in variables.items() if name != "params"}

    def measure(variables, batch, carry):
        rngs = {"dropout": run_key}
        return objective(model, variables, batch, rngs, carry, True)[1]

    names = [*jax.eval_shape(measure, variables, batch, carry), *STEP_METRICS]
    zero = jnp.zeros((), jnp.float32)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        ema=params if ema else None,
        carry=carry,
        rng=jax.random.key_data(run_key),
        metrics={name: (zero, zero) for name in sorted(names)},
        bad_steps=jnp.zeros((), jnp.int32),
        skipped_steps=jnp.zeros((), jnp.int32),
        smooth_loss=None if smooth_loss is None else jnp.asarray(smooth_loss, jnp.float32),
    )
    return jax.tree.map(jnp.copy, state)  # a donated state must not hold one buffer twice

"""One training step and one evaluation step, as pure functions to jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from nn_lib.train.state import TrainState


def make_train_step(
    model,
    objective: Callable,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    prepare: Callable | None = None,
    augment: Callable | None = None,
    log_every: int = 1,
    max_bad_steps: int = 2**30,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The function `(state, batch) -> (state, report)`.

    The report is what the host reads while later steps run (the state itself is handed on to
    them): `metrics f32[names, 2]`, the sums and counts in the order of the names, and
    `learning_rate`, `bad_steps`, `skipped_steps`.

    A step whose loss, gradient or update is not finite leaves parameters, optimizer, statistics
    and carry as they were and is counted; after `max_bad_steps` of them in a row every later step
    is such a step, until the host stops the run. The sums of the metrics start anew after every
    `log_every` steps.
    """

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        augment_key, dropout_key = jax.random.split(key)
        batch = prepared(batch, prepare)
        if augment is not None:
            batch = augment(augment_key, batch)

        def loss_of(params):
            variables = {"params": params, **state.model_state}
            rngs = {"dropout": dropout_key}
            loss, *rest = objective(model, variables, batch, rngs, state.carry, True)
            return loss, rest

        (loss, (measured, model_state, carry)), gradient = jax.value_and_grad(
            loss_of, has_aux=True
        )(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        gradient_norm, update_norm = optax.global_norm(gradient), optax.global_norm(updates)
        ratio = update_norm / jnp.maximum(optax.global_norm(state.params), 1e-12)
        good = jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & jnp.isfinite(update_norm)
        good &= state.bad_steps < max_bad_steps
        measured |= {"gradient_norm": (gradient_norm, 1.0), "update_to_weight": (ratio, 1.0)}

        def keep(new, old):
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        sums = jax.tree.map(lambda x: jnp.where(state.step % log_every == 0, 0, x), state.metrics)
        added = jax.tree.map(jnp.add, sums, {name: measured[name] for name in sums})
        metrics = keep(added, sums)
        after = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            model_state=keep(model_state, state.model_state),
            opt_state=keep(opt_state, state.opt_state),
            carry=keep(carry, state.carry),
            rng=state.rng,
            metrics=metrics,
            bad_steps=jnp.where(good, 0, state.bad_steps + 1),
            skipped_steps=state.skipped_steps + ~good,
        )
        report = {
            "metrics": jnp.stack([jnp.stack(metrics[name]) for name in sorted(metrics)]),
            "learning_rate": schedule(state.step - state.skipped_steps),
            "bad_steps": after.bad_steps,
            "skipped_steps": after.skipped_steps,
        }
        return after, report

    return step


def make_eval_step(model, objective: Callable, *, prepare: Callable | None = None) -> Callable:
    """The function `(variables, batch, carry) -> ({name: (sum, count)}, carry)`, without noise."""

    def step(variables, batch, carry):
        batch = prepared(batch, prepare)
        _, measured, _, carry = objective(model, variables, batch, {}, carry, False)
        return measured, carry

    return step


def prepared(batch: dict, prepare: Callable | None) -> dict:
    """The batch with `prepare` applied to its inputs; bytes become 0..1 where there is none."""
    inputs = batch["inputs"]
    if prepare is not None:
        inputs = prepare(inputs)
    elif inputs.dtype == jnp.uint8:
        inputs = inputs.astype(jnp.float32) / 255
    return {**batch, "inputs": inputs}

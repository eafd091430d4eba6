"""One training step and one evaluation step, as pure functions to jit."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from nn_lib.optim import gradient_params, learning_rate_scale, paths
from nn_lib.train.state import TrainState


def make_train_step(
    model,
    objective: Callable,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    prepare: Callable[[dict], dict] | None = None,
    augment: Callable | None = None,
    frozen: Sequence[str] = (),
    reduction: str = "mean",
    accumulation: int = 1,
    ema_decay: float = 0.0,
    smooth_loss: float = 0.0,
    log_every: int = 1,
    max_bad_steps: int = 2**30,
    spread: Callable = lambda parts: parts,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The function `(state, batch) -> (state, report)`.

    The report is what the host reads while later steps run (the state itself is handed on to
    them): `metrics f32[names, 2]`, the sums and counts in the order of the names, and
    `learning_rate`, `bad_steps`, `skipped_steps`.

    A step whose loss, gradient or update is not finite leaves parameters, optimizer, statistics
    and carry as they were and is counted; after `max_bad_steps` of them in a row every later step
    is such a step, until the host stops the run. The sums of the metrics start anew after every
    `log_every` steps.

    Args:
      frozen: patterns of parameters without a gradient, whose model state stays as it is too.
      reduction: of the per-example losses, 'mean' or 'sum': the gradient is that times the count.
      accumulation: parts that a batch is cut into, one after the other, to save memory; the
        gradient is that of the whole batch, but batch statistics are those of each part.
      ema_decay: d of the moving average `d a + (1 - d) p` of the parameters p, corrected for
        its start as Adam's moments are; 0 keeps none.
      smooth_loss: s of `smooth_loss = s smooth_loss + (1 - s) loss`, where the state keeps one.
      spread: lays the rows of each part, axis 1, over the devices.
    """
    differentiate = _differentiate(model, objective, frozen)
    if accumulation > 1:
        differentiate = _accumulate(differentiate, accumulation, spread)

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        augment_key, dropout_key = jax.random.split(key)
        if prepare is not None:
            batch = prepare(batch)
        if augment is not None:
            batch = augment(augment_key, batch)

        point = gradient_params(state.params, state.opt_state)
        loss, gradient, measured, model_state, carry = differentiate(
            point, state.model_state, state.carry, batch, dropout_key
        )
        if reduction == "sum":
            count = measured["loss"][1]
            loss, gradient = _times((loss, gradient), count)
        updates, opt_state = optimizer.update(gradient, state.opt_state, point)
        params = optax.apply_updates(state.params, updates)

        gradient_norm, update_norm = optax.global_norm(gradient), optax.global_norm(updates)
        ratio = update_norm / jnp.maximum(optax.global_norm(state.params), 1e-12)
        good = jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & jnp.isfinite(update_norm)
        good &= state.bad_steps < max_bad_steps
        measured |= {"gradient_norm": (gradient_norm, 1.0), "update_to_weight": (ratio, 1.0)}

        ema = state.ema
        if ema is not None:
            updates_made = state.step + 1 - state.skipped_steps
            weight = _averaging_weight(ema_decay, updates_made)
            # In this form an average equals parameters that stay as they are bit for bit.
            ema = jax.tree.map(lambda a, p: a + (weight * (p - a)).astype(a.dtype), ema, params)

        def keep(new, old):
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        sums = jax.tree.map(lambda x: jnp.where(state.step % log_every == 0, 0, x), state.metrics)
        added = jax.tree.map(jnp.add, sums, {name: measured[name] for name in sums})
        metrics = keep(added, sums)
        smoothed = state.smooth_loss
        if smoothed is not None:
            smoothed = smooth_loss * smoothed + (1 - smooth_loss) * loss.astype(smoothed.dtype)
        after = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            model_state=keep(model_state, state.model_state),
            opt_state=keep(opt_state, state.opt_state),
            ema=keep(ema, state.ema),
            carry=keep(carry, state.carry),
            rng=state.rng,
            metrics=metrics,
            bad_steps=jnp.where(good, 0, state.bad_steps + 1),
            skipped_steps=state.skipped_steps + ~good,
            smooth_loss=keep(smoothed, state.smooth_loss),
        )
        rate = schedule(state.step - state.skipped_steps) * learning_rate_scale(state.opt_state)
        report = {
            "metrics": jnp.stack([jnp.stack(metrics[name]) for name in sorted(metrics)]),
            "learning_rate": rate,
            "bad_steps": after.bad_steps,
            "skipped_steps": after.skipped_steps,
        }
        if smoothed is not None:
            report["smooth_loss"] = after.smooth_loss
        return after, report

    return step


def make_eval_step(
    model, objective: Callable, *, prepare: Callable[[dict], dict] | None = None
) -> Callable:
    """The function `(variables, batch, carry) -> ({name: (sum, count)}, carry)`, without noise."""

    def step(variables, batch, carry):
        if prepare is not None:
            batch = prepare(batch)
        _, measured, _, carry = objective(model, variables, batch, {}, carry, False)
        return measured, carry

    return step


def _differentiate(model, objective: Callable, frozen: Sequence[str]) -> Callable:
    """`(params, model_state, carry, batch, key) -> (loss, gradient, metrics, state, carry)`."""

    def hold(tree, new, old):
        return jax.tree.map(
            lambda is_frozen, a, b: b if is_frozen else a, paths.mask(tree, frozen), new, old
        )

    def differentiate(params, model_state, carry, batch, key):
        def loss_of(params):
            # Nothing is computed for the gradient of what is frozen.
            params = hold(params, params, jax.lax.stop_gradient(params))
            variables = {"params": params, **model_state}
            loss, *rest = objective(model, variables, batch, {"dropout": key}, carry, True)
            return loss, rest

        (loss, (measured, new_state, new_carry)), gradient = jax.value_and_grad(
            loss_of, has_aux=True
        )(params)
        new_state = {
            name: hold(tree, tree, model_state[name]) if frozen else tree
            for name, tree in new_state.items()
        }
        return loss, gradient, measured, new_state, new_carry

    return differentiate


def _accumulate(differentiate: Callable, parts: int, spread: Callable) -> Callable:
    """As `differentiate`, over consecutive parts of the batch that are weighted by their counts."""

    def cut(tree):
        return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), tree)

    def accumulated(params, model_state, carry, batch, key):
        def one(model_state, carry, batch, key):
            loss, gradient, measured, model_state, carry = differentiate(
                params, model_state, carry, batch, key
            )
            count = measured["loss"][1]
            return (*_times((loss, gradient), count), measured), model_state, carry

        def add(sums, part):
            totals, model_state = sums
            more, model_state, carry = one(model_state, *part)
            return (jax.tree.map(jnp.add, totals, more), model_state), carry

        inputs = (spread(cut(carry)), spread(cut(batch)), jax.random.split(key, parts))
        first = jax.tree.map(lambda x: x[0], inputs)
        shapes = jax.eval_shape(one, model_state, *first)[0]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (totals, model_state), carry = jax.lax.scan(add, (zeros, model_state), inputs)
        loss, gradient, measured = totals
        count = jnp.maximum(measured["loss"][1], 1)
        loss, gradient = _times((loss, gradient), 1 / count)
        carry = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), carry)
        return loss, gradient, measured, model_state, carry

    return accumulated


def _times(tree, factor):
    """Every leaf times a number, in its own dtype."""
    return jax.tree.map(lambda x: x * factor.astype(x.dtype), tree)


def _averaging_weight(decay: float, updates: jax.Array) -> jax.Array:
    """What the newest parameters weigh: `(1 - d) / (1 - d^t)`, 1 after the first update."""
    return (1 - decay) / -jnp.expm1(jnp.maximum(updates, 1) * math.log(decay))

"""Reduce-on-plateau: a factor on the learning rate that validation drives, saved with the state.

`scale_by_plateau` multiplies updates in every step; `observe` is called after a validation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def scale_by_plateau() -> optax.GradientTransformation:
    """Multiplies the updates by the scale that `observe` has left in the state."""

    def init(params):
        return _rule(factor=0.5, patience=1).init(params)

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


def observe(opt_state: Any, value: float, *, factor: float, patience: int, mode: str) -> Any:
    """The optimizer state after a validation measured `value`.

    After `patience` values in a row that are not better than the best so far, the learning rate is
    multiplied by `factor`. A value that is not finite is not better.

    Args:
      mode: 'min' or 'max', which values are better.
    """
    value = value if mode == "min" else -value

    def after(state):
        if not _is_state(state):
            return state
        new = _rule(factor=factor, patience=patience).update({}, state, value=value)[1]
        return jax.tree.map(lambda a, b: jnp.array(a, b.dtype), new, state)  # no weak types

    return jax.tree.map(after, opt_state, is_leaf=_is_state)


def learning_rate_scale(opt_state: Any) -> jax.Array:
    """The factor on the schedule's learning rate; 1 without a plateau schedule."""
    states = [s for s in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(s)]
    return states[0].scale if states else jnp.ones(())


def _rule(factor: float, patience: int):
    # A relative tolerance would call an equal negative value an improvement, and one of the two
    # tolerances must be positive.
    return optax.contrib.reduce_on_plateau(factor, patience, rtol=0.0, atol=1e-30)


def _is_state(node: Any) -> bool:
    return isinstance(node, optax.contrib.ReduceLROnPlateauState)

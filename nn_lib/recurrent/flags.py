"""What resets and masks do to the states of a written-out scan; None is no flag, and no work."""

import jax
import jax.numpy as jnp


def where(flag, chosen, otherwise):
    """`chosen` where the flag holds or there is none."""
    return chosen if flag is None else jnp.where(flag, chosen, otherwise)


def kept(again, states):
    """The states, zero where they begin again; of their cotangents, the part that goes on."""
    if again is None:
        return states
    return jax.tree.map(lambda leaf: jnp.where(again, 0, leaf), states)


def held(on, d_state):
    """The cotangent that a step which does not count hands through to the state before it."""
    return 0 if on is None else jnp.where(on, 0, d_state)


def previous(first, states):
    """`[T, B, H]`, the states before each step."""
    return jnp.concatenate([first[None], states[:-1]])

"""Noise of a recurrent layer, drawn before the scan: variational dropout and zoneout."""

from typing import Any

import jax
import jax.numpy as jnp

from nn_lib.checks import UserError
from nn_lib.recurrent.cell import Cell


def check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise UserError(f"RNN expects {name}, a probability, at least 0 and below 1, got {rate}")


def dropout(key: jax.Array, rate: float, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """0 with probability `rate`, else `1 / (1 - rate)`."""
    return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / (1 - rate)


def zoneout_rates(zoneout: float | tuple[float, ...], cell: Cell, carry) -> tuple[float, ...]:
    """One probability for every array of the carry."""
    states = len(jax.tree.leaves(carry))
    rates = zoneout if isinstance(zoneout, tuple | list) else cell.zoneout_rates(zoneout, carry)
    if len(rates) != states:
        raise UserError(
            f"RNN expects zoneout as one probability or as {states}, one for every array of the "
            f"carry, got {tuple(rates)}"
        )
    for rate in rates:
        check_rate("zoneout", rate)
    return tuple(rates)


def zones(key: jax.Array, rates: tuple[float, ...], carry, length: int):
    """The carry's tree of `bool[T, B, ...]`: the units that keep their old value in a step."""
    leaves, tree = jax.tree.flatten(carry)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.bernoulli(k, rate, (length, *leaf.shape))
        for k, rate, leaf in zip(keys, rates, leaves)
    ]
    return jax.tree.unflatten(tree, drawn)


def zone_out(before, after, rates: tuple[float, ...], kept):
    """The new carry where units keep their old value: by chance, or without noise in the mean.

    `h_t = d . h_{t-1} + (1 - d) . h~_t` with d from Bernoulli(rate) in training and d = rate in
    evaluation, as dropout is its mean there. Krueger et al. 2017, "Zoneout: regularizing RNNs by
    randomly preserving hidden activations".
    """
    if kept is not None:
        return jax.tree.map(jnp.where, kept, before, after)
    leaves, tree = jax.tree.flatten(before)
    mixed = [
        rate * old + (1 - rate) * new
        for rate, old, new in zip(rates, leaves, jax.tree.leaves(after))
    ]
    return jax.tree.unflatten(tree, mixed)

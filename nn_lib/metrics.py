"""Metrics as (sum, count) pairs, so that partial batches, hosts and devices add up exactly.

`means` turns accumulated pairs into numbers; it is the only place that divides.
"""

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[jax.Array, jax.Array]


def masked_sum(values: jax.Array, mask: jax.Array) -> Pair:
    """(sum of the values where `mask` holds, how many there are), in float32 or wider.

    A masked value never counts, not even a NaN.
    """
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    return jnp.sum(jnp.where(mask, values, 0).astype(dtype)), jnp.sum(mask.astype(dtype))


def accuracy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Pair:
    """Counts the examples whose largest logit is at the label (the likeliest of soft labels)."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jnp.argmax(labels, axis=-1)
    return masked_sum((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32), mask)


def confusion(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Pair:
    """`[C, C]` counts, row = true class, column = predicted class, and the number of examples."""
    classes = logits.shape[-1]
    predicted = jnp.argmax(logits, axis=-1)
    weights = mask.astype(jnp.float32)
    matrix = jnp.zeros((classes, classes)).at[labels, predicted].add(weights)
    return matrix, jnp.sum(weights)


def bits(nats):
    """Nats to bits: a loss in nats per character becomes bits per character."""
    return nats / math.log(2.0)


def add(parts: Iterable[Mapping[str, Pair]]) -> dict[str, tuple[np.ndarray, float]]:
    """Sums the pairs of many batches on the host in float64."""
    total: dict[str, tuple[np.ndarray, float]] = {}
    for part in parts:
        for name, (value, count) in part.items():
            value = np.asarray(value, np.float64)
            before, seen = total.get(name, (np.zeros_like(value), 0.0))
            total[name] = (before + value, seen + float(count))
    return total


def means(pairs: Mapping[str, tuple]) -> dict[str, float]:
    """Sum over count for every scalar metric; a metric that counted nothing is NaN.

    Metrics that are arrays, such as the confusion matrix, are left out.
    """
    return {
        name: float(value) / float(count) if float(count) else math.nan
        for name, (value, count) in pairs.items()
        if np.ndim(value) == 0
    }

"""Metrics as (sum, count) pairs, so that partial batches, hosts and devices add up exactly.

`means` turns accumulated pairs into numbers; it is the only place that divides. A metric that is
no mean, such as R^2, accumulates an array of sums and has its last formula in `FROM_SUMS`.
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


def top_k(logits: jax.Array, labels: jax.Array, mask: jax.Array, k: int) -> Pair:
    """Counts the examples whose label is among the k largest logits; a tie counts against it."""
    at_label = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    others = jnp.sum(logits >= at_label, axis=-1) - 1
    right = (others < k) & jnp.isfinite(at_label[..., 0])
    return masked_sum(right.astype(jnp.float32), mask)


def calibration(logits: jax.Array, labels: jax.Array, mask: jax.Array, bins: int = 15) -> Pair:
    """For `calibration_error`: `[bins, 2]` sums of (confidence, being right) by confidence.

    The confidence is the largest probability; bins have equal width on (0, 1].
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    confidence = jnp.max(probabilities, axis=-1)
    right = jnp.argmax(logits, axis=-1) == labels
    place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    rows = jnp.stack([confidence, right.astype(jnp.float32)], axis=-1)
    weights = mask.astype(jnp.float32)
    sums = jnp.zeros((bins, 2)).at[place].add(jnp.where(mask[..., None], rows, 0))
    return sums, jnp.sum(weights)


def r_squared(outputs: jax.Array, targets: jax.Array, mask: jax.Array) -> Pair:
    """For `r2`: `[3, D]` sums of (residual squared, target, target squared).

    In float32, so targets should be of about zero mean and unit variance.
    """
    rows = jnp.stack([jnp.square(outputs - targets), targets, jnp.square(targets)])
    sums = jnp.sum(jnp.where(mask[:, None], rows.astype(jnp.float32), 0), axis=1)
    return sums, jnp.sum(mask.astype(jnp.float32))


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
    """Every number that the pairs hold: sum over count, or what `FROM_SUMS` makes of them.

    A metric that counted nothing is NaN. Other arrays, such as the confusion matrix, are left out.
    """
    return {
        name: _number(name, np.asarray(pairs[name][0], np.float64), float(pairs[name][1]))
        for name in numbers(pairs)
    }


def numbers(pairs: Mapping[str, tuple]) -> list[str]:
    """The names for which `means` has a number."""
    return [name for name in pairs if _kind(name) in FROM_SUMS or np.ndim(pairs[name][0]) == 0]


def _number(name: str, value: np.ndarray, count: float) -> float:
    if not count:
        return math.nan
    return float(FROM_SUMS.get(_kind(name), np.divide)(value, count))


def _kind(name: str) -> str:
    """'accuracy' of 'class/accuracy', the accuracy of one of several tasks."""
    return name.rsplit("/", 1)[-1]


def _calibration_error(sums: np.ndarray, count: float) -> float:
    return float(np.abs(sums[:, 0] - sums[:, 1]).sum()) / count


def _r2(sums: np.ndarray, count: float) -> float:
    residual, total, squares = sums
    variation = squares - total**2 / count
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(1 - residual / variation))


def _perplexity(nats: np.ndarray, count: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(nats / count))


FROM_SUMS = {
    # exp of the mean loss in nats per token.
    "perplexity": _perplexity,
    # 1 - sum (f - y)^2 / sum (y - mean y)^2, averaged over outputs.
    "r2": _r2,
    # sum over bins of (share of examples) |accuracy - confidence| (Guo et al. 2017).
    "calibration_error": _calibration_error,
}

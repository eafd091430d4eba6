"""Losses: arrays in, one number per example out; objectives reduce them under a mask."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy in nats, `-sum_c y_c log softmax(logits)_c`, in float32 or wider.

    Args:
      logits: `[..., C]`.
      labels: `int[...]` class indices, or `float[..., C]` probabilities (as mixup makes them).

    Returns:
      `[...]`, one loss per example.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return optax.softmax_cross_entropy(logits, labels)

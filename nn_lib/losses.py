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
    logits = _wide(logits)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return optax.softmax_cross_entropy(logits, labels)


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, epsilon: float) -> jax.Array:
    """Cross-entropy with `(1 - epsilon) onehot(label) + epsilon / C`, `[..., C] -> [...]`.

    Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision".
    """
    logits = _wide(logits)
    uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    return (1 - epsilon) * cross_entropy(logits, labels) + epsilon * uniform


def maximum_a_posteriori(
    outputs: jax.Array, labels: jax.Array, *, rubbish: float = 1.0
) -> jax.Array:
    """LeNet-5's loss of minus the penalties, `y_D + log(e^-j + sum_i e^-y_i)`, y = -outputs.

    The first term pulls the penalty of the right class D down; the second, which competes, pushes
    the others up, and j = `rubbish` (positive) keeps it from pushing those that are large already.

    Args:
      outputs: `[..., C]`, -y. labels: `int[...]`.

    LeCun et al. 1998, "Gradient-based learning applied to document recognition", equation 9.
    """
    outputs = _wide(outputs)
    right = jnp.take_along_axis(outputs, labels[..., None], axis=-1)[..., 0]
    return jnp.logaddexp(-rubbish, jax.nn.logsumexp(outputs, axis=-1)) - right


def squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """`sum_d (f_d - y_d)^2` over the last axis, `[..., D] -> [...]`.

    There is no half in it, so dL/df = 2 (f - y).
    """
    return jnp.sum(jnp.square(_wide(outputs) - targets), axis=-1)


def absolute(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """`sum_d |f_d - y_d|` over the last axis, `[..., D] -> [...]`."""
    return jnp.sum(jnp.abs(_wide(outputs) - targets), axis=-1)


def huber(outputs: jax.Array, targets: jax.Array, delta: float = 1.0) -> jax.Array:
    """Per entry `r^2 / 2` where |r| <= delta, else `delta (|r| - delta / 2)`; summed over the last.

    Huber 1964, "Robust estimation of a location parameter".
    """
    return jnp.sum(optax.huber_loss(_wide(outputs), targets, delta=delta), axis=-1)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`-sum_l [y_l log p_l + (1 - y_l) log(1 - p_l)]`, p = sigma(logits), in nats.

    A sum over the labels on the last axis, `[..., L] -> [...]`; dL/dlogits = p - y.
    """
    logits = _wide(logits)
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)), axis=-1)


def _wide(outputs: jax.Array) -> jax.Array:
    """In float32 or wider, so that reductions keep their digits."""
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))

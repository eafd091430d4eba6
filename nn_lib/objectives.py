"""Objectives: where a model meets the keys of a batch.

Every objective has one signature,
`(model, variables, batch, rngs, carry, train) -> (loss, {name: (sum, count)}, model_state, carry)`:
`loss` is the scalar to differentiate, `model_state` holds the mutable collections after the call
(batch statistics), and `carry` is the recurrent state that the next batch continues from.
"""

import jax
import jax.numpy as jnp

from nn_lib import losses, metrics


def classify(model, variables, batch, rngs, carry, train: bool):
    """Mean softmax cross-entropy of `model(inputs)` against `labels`.

    Args:
      batch: `inputs [B, ...]`, `labels int[B]` (or `float[B, C]` probabilities), `mask bool[B]`.

    The metrics are `loss` (nats) and `accuracy`; in evaluation also the `confusion` matrix.
    A sequence model, recognised by its `initialize_carry`, starts every batch from its own
    initial carry.
    """
    outputs, model_state = _apply(model, variables, rngs, train, batch["inputs"])
    logits = outputs[0] if hasattr(model, "initialize_carry") else outputs
    labels, mask = batch["labels"], batch["mask"]
    total, count = metrics.masked_sum(losses.cross_entropy(logits, labels), mask)
    measured = {
        "loss": (total, count),
        "accuracy": metrics.accuracy(logits, labels, mask),
    }
    if not train:
        measured["confusion"] = metrics.confusion(logits, labels, mask)
    return total / jnp.maximum(count, 1), measured, model_state, carry


def next_token(model, variables, batch, rngs, carry, train: bool):
    """Mean cross-entropy in nats of each token given those before it; the carry goes on.

    Args:
      batch: `inputs int[B, T]`, `targets int[B, T]` (the inputs one step later),
        `reset bool[B, T]` (the state starts anew before that step), `mask bool[B, T]`.

    The gradient stops at the window's left border, so that training over consecutive windows is
    truncated back-propagation through time. The metrics are `loss` (nats), `bits_per_character`
    and `accuracy`.
    """
    carry = jax.lax.stop_gradient(carry)
    (logits, carry), model_state = _apply(
        model, variables, rngs, train, batch["inputs"], carry=carry, reset=batch["reset"]
    )
    targets, mask = batch["targets"], batch["mask"]
    total, count = metrics.masked_sum(losses.cross_entropy(logits, targets), mask)
    measured = {
        "loss": (total, count),
        "bits_per_character": (metrics.bits(total), count),
        "accuracy": metrics.accuracy(logits, targets, mask),
    }
    return total / jnp.maximum(count, 1), measured, model_state, carry


def _apply(model, variables, rngs, train, inputs, **arguments):
    """Calls the model; in training its mutable collections (all but `params`) are returned anew."""
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    if not (train and model_state):
        outputs = model.apply(variables, inputs, train=train, rngs=rngs, **arguments)
        return outputs, model_state
    return model.apply(
        variables, inputs, train=train, rngs=rngs, mutable=list(model_state), **arguments
    )

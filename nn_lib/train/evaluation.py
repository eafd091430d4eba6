"""Evaluation of a whole split, each example counted once."""

from collections.abc import Callable

import jax

from nn_lib import metrics
from nn_lib.data import DataSet
from nn_lib.data.batches import evaluation_batches


def evaluate(
    eval_step: Callable, variables, model, data: DataSet, split: str, batch_size: int
) -> dict[str, tuple]:
    """The accumulated {name: (sum, count)} of a split, added on the host in float64.

    Text streams carry their state from window to window; examples have none.
    """
    measured, carry = [], None
    for batch in evaluation_batches(data, split, batch_size):
        if carry is None and data.sequence_length:
            carry = model.initialize_carry(len(batch["inputs"]))
        pairs, carry = eval_step(variables, batch, carry)
        measured.append(pairs)
    return metrics.add(jax.device_get(measured))

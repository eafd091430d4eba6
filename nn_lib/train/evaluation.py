"""Evaluation of a whole split, each example counted once; at once, or batch by batch."""

import collections
from collections.abc import Callable, Generator
from typing import Any

import jax

from nn_lib import metrics
from nn_lib.data import DataSet
from nn_lib.data.batches import evaluation_batches
from nn_lib.train.sharding import Layout
from nn_lib.train.transcription import Comparison

AHEAD = 8  # steps of training, begun meanwhile, after which a batch is done
IN_FLIGHT = 2  # batches on several devices: of a CPU they lock up with dozens of programs begun


def evaluate(
    eval_step: Callable,
    variables,
    model,
    data: DataSet,
    split: str,
    batch_size: int,
    layout: Layout,
    transcribe: Callable | None = None,
) -> dict[str, tuple]:
    """The accumulated {name: (sum, count)} of a split, added on the host in float64.

    Text streams carry their state from window to window; examples have none. With `transcribe`,
    `(variables, inputs, mask) -> Decoded`, what it writes is measured too; every process then reads
    all of every batch.
    """
    going = evaluating(eval_step, variables, model, data, split, batch_size, layout, transcribe)
    while True:
        try:
            next(going)
        except StopIteration as end:
            return end.value


def evaluating(
    eval_step: Callable,
    variables,
    model,
    data: DataSet,
    split: str,
    batch_size: int,
    layout: Layout,
    transcribe: Callable | None = None,
) -> Generator[None, None, dict[str, tuple]]:
    """As `evaluate`, which it returns at last; after every batch that is begun it yields.

    `AHEAD` more times at the end, so that the last ones are done when they are waited for. What it
    yields for is the same on every process, as are the programs that it runs.
    """
    measured: collections.deque[Any] = collections.deque()
    found: dict[str, tuple] = {}
    carry = None
    comparison = None
    if transcribe and data.vocabulary and data.target_vocabulary:
        comparison = Comparison(data.vocabulary, data.target_vocabulary)
    whole = comparison is not None
    process = (0, 1) if whole else layout.process
    for read in evaluation_batches(data, split, batch_size, process, layout.shards):
        batch = layout.put(read, whole=whole)
        if carry is None and data.sequence_length:
            carry = layout.carry(model, len(batch["inputs"]))
        pairs, carry = eval_step(variables, batch, carry)
        measured.append(pairs)
        if not layout.one_device:
            jax.block_until_ready(measured[-min(IN_FLIGHT, len(measured))])
        if len(measured) > AHEAD:  # done long ago; a thousand classes' confusion is 4 MB a batch
            found = metrics.add((found, jax.device_get(measured.popleft())))
        if transcribe and comparison:
            comparison.add(read, transcribe(variables, batch["inputs"], batch["input_mask"]))
        yield
    for _ in range(AHEAD):
        yield
    found = metrics.add((found, *jax.device_get(list(measured))))
    return found | comparison.metrics() if comparison else found

"""Objectives: where a model meets the keys of a batch.

Every objective has one signature,
`(model, variables, batch, rngs, carry, train) -> (loss, {name: (sum, count)}, model_state, carry)`:
`loss` is the scalar to differentiate, a mean whose count is that of the metric `loss`, which every
objective has; `model_state` holds the mutable collections after the call (batch statistics), and
`carry` is the recurrent state that the next batch continues from. Options are bound by
`functools.partial`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nn_lib import losses, metrics
from nn_lib.checks import UserError, check_choice
from nn_lib.recurrent.truncated import read_window


def classify(
    model,
    variables,
    batch,
    rngs,
    carry,
    train: bool,
    *,
    top: int = 0,
    loss: Callable = losses.cross_entropy,
    smoothing: float = 0.0,
    auxiliary_weight: float = 0.3,
):
    """Mean softmax cross-entropy of `model(inputs)` against `labels`.

    Args:
      batch: `inputs [B, ...]`, `labels int[B]` (or `float[B, C]` probabilities), `mask bool[B]`.
      top: k of a further metric, `top_k_accuracy`; 0 for none.
      loss: another `(outputs [B, C], labels) -> [B]`, as `losses.maximum_a_posteriori`.
      smoothing: epsilon of label smoothing in training, `(1 - eps) y + eps / C` (Szegedy et al.
        2016); the metric `loss` is without.
      auxiliary_weight: of each auxiliary classifier's loss, for a model that returns
        `(logits, (auxiliary, ...))` in training, as GoogLeNet; the metrics are the logits' alone.

    The metrics are `loss` (nats) and `accuracy`; in evaluation also the `confusion` matrix and the
    `calibration_error`. A sequence model, recognised by its `initialize_carry`, starts every batch
    from its own initial carry.
    """
    if not 0 <= smoothing <= 1 or (smoothing and loss is not losses.cross_entropy):
        raise UserError(
            f"classify expects a smoothing from 0 to 1, and no other loss with it, got {smoothing}"
        )
    logits, model_state = _outputs(model, variables, rngs, train, batch)
    logits, auxiliary = logits if isinstance(logits, tuple) else (logits, ())
    labels, mask = batch["labels"], batch["mask"]
    value, measured = _classification(logits, labels, mask, train, top, loss)
    if train and smoothing:
        loss = functools.partial(losses.smoothed_cross_entropy, epsilon=smoothing)
        total, count = metrics.masked_sum(loss(logits, labels), mask)
        value = total / jnp.maximum(count, 1)
    for outputs in auxiliary:
        total, count = metrics.masked_sum(loss(outputs, labels), mask)
        value += auxiliary_weight * total / jnp.maximum(count, 1)
    return value, measured, model_state, carry


def regress(model, variables, batch, rngs, carry, train: bool, *, loss: Callable = losses.squared):
    """Mean of a loss between `model(inputs) [B, D]` and `labels float[B, D]` (or `[B]`, D = 1).

    Args:
      loss: `losses.squared`, `absolute` or `huber`, or any `(outputs, targets) -> [B]`.

    The metrics are `loss` and `mean_absolute_error`; in evaluation also `r2`.
    """
    outputs, model_state = _outputs(model, variables, rngs, train, batch)
    value, measured = _regression(outputs, batch["labels"], batch["mask"], train, loss)
    return value, measured, model_state, carry


def detect(model, variables, batch, rngs, carry, train: bool):
    """Binary classification, one or several labels an example that do not exclude each other.

    Mean over the examples of the sum over labels of the binary cross-entropy between
    `model(inputs) [B, L]` (logits) and `labels [B, L]` of 0 and 1 (or `[B]`, L = 1). The metrics
    are `loss` (nats), `accuracy` (of labels) and `exact` (examples with every label right).
    """
    logits, model_state = _outputs(model, variables, rngs, train, batch)
    labels, mask = _columns(batch["labels"], logits), batch["mask"]
    total, count = metrics.masked_sum(losses.binary_cross_entropy(logits, labels), mask)
    right = (logits > 0) == (labels > 0.5)
    measured = {
        "loss": (total, count),
        "accuracy": metrics.masked_sum(jnp.mean(right.astype(jnp.float32), axis=-1), mask),
        "exact": metrics.masked_sum(jnp.all(right, axis=-1).astype(jnp.float32), mask),
    }
    return total / jnp.maximum(count, 1), measured, model_state, carry


def tag(
    model,
    variables,
    batch,
    rngs,
    carry,
    train: bool,
    *,
    class_names: tuple[str, ...] | None = (),
):
    """One class for every step: mean cross-entropy of `model(inputs) [B, T, C]`.

    Args:
      batch: `inputs [B, T, ...]`, `labels int[B, T]`, `mask bool[B]` or `[B, T]`, and for sequences
        of different lengths `input_mask bool[B, T]`.
      class_names: of tags that mark spans (`metrics.span_table`), whose F1 is then a metric too;
        None takes those of the data.

    The metrics are those of `classify`, over steps, and `exact`, the sequences with every step
    right; in evaluation `span_f1`. Every batch starts from the model's own initial carry.
    """
    logits, model_state = _outputs(model, variables, rngs, train, batch)
    labels = batch["labels"]
    if logits.shape[:-1] != labels.shape:
        raise UserError(
            f"tag expects outputs [B, T, C] for labels {list(labels.shape)}, got "
            f"{list(logits.shape)}; a SequenceClassifier gives them by readout='every'"
        )
    mask = batch["mask"]
    steps = jnp.broadcast_to(mask if mask.ndim == 2 else mask[:, None], labels.shape)
    if "input_mask" in batch:
        steps = steps & batch["input_mask"]
    loss, measured = _classification(
        logits.reshape(-1, logits.shape[-1]), labels.ravel(), steps.ravel(), train
    )
    right = jnp.all((jnp.argmax(logits, axis=-1) == labels) | ~steps, axis=1)
    measured["exact"] = metrics.masked_sum(right.astype(jnp.float32), steps.any(axis=1))
    if class_names and not train:
        table = metrics.span_table(class_names)
        measured["span_f1"] = metrics.spans(jnp.argmax(logits, axis=-1), labels, steps, table)
    return loss, measured, model_state, carry


@dataclasses.dataclass(frozen=True)
class Task:
    """One head of a multi-task model.

    Attributes:
      name: of the head among the model's outputs, and before its metrics: `name/accuracy`.
      labels: the key of its targets in the batch.
      kind: 'classify' or 'regress'.
      weight: lambda of its loss.
      loss: of regression.
    """

    name: str
    labels: str = "labels"
    kind: str = "classify"
    weight: float = 1.0
    loss: Callable = losses.squared


def multi_task(model, variables, batch, rngs, carry, train: bool, *, tasks: tuple[Task, ...]):
    """`L = sum_k lambda_k L_k` over the heads of a shared trunk.

    `model(inputs)` is a dict with the outputs of every task's head. The trunk's gradient is the
    weighted sum of the tasks'; a head gets that of its own loss alone (Caruana 1997).
    """
    outputs, model_state = _outputs(model, variables, rngs, train, batch)
    value: Any = 0.0
    measured: dict[str, Any] = {}
    mask = batch["mask"]
    for task in tasks:
        missing = (task.name, "outputs", outputs), (task.labels, "batch", batch)
        for key, what, where in missing:
            if key not in where:
                raise UserError(
                    f"task {task.name!r}: no {key!r} in the {what}, only {sorted(where)}"
                )
        check_choice(f"task {task.name!r}: kind", task.kind, ("classify", "regress"))
        head, labels = outputs[task.name], batch[task.labels]
        if task.kind == "classify":
            loss, own = _classification(head, labels, mask, train)
        else:
            loss, own = _regression(head, labels, mask, train, task.loss)
        value = value + task.weight * loss
        measured |= {f"{task.name}/{name}": pair for name, pair in own.items()}
    count = jnp.sum(mask.astype(jnp.float32))
    return value, {"loss": (value * count, count), **measured}, model_state, carry


def next_token(model, variables, batch, rngs, carry, train: bool, *, restart: float = 0.0):
    """Mean cross-entropy in nats of each token given those before it; the carry goes on.

    Args:
      batch: `inputs int[B, T]`, `targets int[B, k1]` (the last inputs one step later),
        `reset bool[B, T]` (the state starts anew before that step), `mask bool[B, T]`.
      restart: the probability that a stream's state starts anew before a window of training. A
        model that only ever carried its state on may not find its way from the zero state, in
        which every text it is given begins (Melis, Dyer & Blunsom 2018, "On the state of the art of
        evaluation in neural language models", with 0.01).

    The gradient stops at the window's left border, so that training over consecutive windows is
    truncated back-propagation through time, TBPTT(k1, T): where `T > k1`, the steps without targets
    are those of the window before. The metrics are `loss` (nats), `bits_per_character`,
    `perplexity` and `accuracy`.
    """
    targets, mask, reset = batch["targets"], batch["mask"], batch["reset"]
    overlap = mask.shape[1] - targets.shape[1]
    if train and restart:
        key, noise = jax.random.split(rngs["dropout"])
        rngs = {**rngs, "dropout": noise}
        anew = jax.random.bernoulli(key, restart, reset.shape[:1])
        reset = reset | (anew[:, None] & (jnp.arange(reset.shape[1]) == 0))
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    calls = itertools.count()

    def apply(inputs, **arguments):
        """The model on a part of the window, with noise of its own."""
        nonlocal model_state
        call = next(calls)
        keys = {name: jax.random.fold_in(key, call) if call else key for name, key in rngs.items()}
        now = {**variables, **model_state}
        result, model_state = _apply(model, now, keys, train, inputs, **arguments)
        return result

    logits, carry, _ = read_window(
        apply,
        batch["inputs"],
        carry,
        advance=targets.shape[1],
        reset=reset,
        mask=mask if overlap else None,
    )
    logits, mask = logits[:, overlap:], mask[:, overlap:]
    total, count = metrics.masked_sum(losses.cross_entropy(logits, targets), mask)
    measured = {
        "loss": (total, count),
        "bits_per_character": (metrics.bits(total), count),
        "perplexity": (total, count),
        "accuracy": metrics.accuracy(logits, targets, mask),
    }
    return total / jnp.maximum(count, 1), measured, model_state, carry


def transduce(
    model,
    variables,
    batch,
    rngs,
    carry,
    train: bool,
    *,
    smoothing: float = 0.0,
    sampling: float = 0.0,
):
    """Mean cross-entropy in nats of each target token given the source and those before it.

    Args:
      batch: `inputs int[B, S]`, `input_mask bool[B, S]`, `targets int[B, T]` with their END,
        `target_mask bool[B, T]`, `mask bool[B]`.
      smoothing: epsilon of label smoothing in training, `(1 - eps) onehot + eps / V` (Szegedy et
        al. 2016).
      sampling: probability in training that the decoder reads a token that it drew itself instead
        of the true one (scheduled sampling, Bengio et al. 2015).

    The metrics, of the targets and without smoothing, are `loss` (nats a token), `perplexity`,
    `accuracy`, and `exact`, the sequences with every token right, each given the true ones before.
    """
    for name, share in (("smoothing", smoothing), ("sampling", sampling)):
        if not 0 <= share <= 1:
            raise UserError(f"transduce expects {name} from 0 to 1, got {share}")
    targets = batch["targets"]
    mask = batch["target_mask"] & batch["mask"][:, None]
    arguments = {"mask": batch["input_mask"]}
    if train and sampling:
        logits = _decode_with_own_tokens(model, variables, batch, rngs, sampling)
        model_state = {name: tree for name, tree in variables.items() if name != "params"}
    else:
        logits, model_state = _apply(
            model, variables, rngs, train, batch["inputs"], targets=targets, **arguments
        )
    total, count = metrics.masked_sum(losses.cross_entropy(logits, targets), mask)
    right = jnp.all((jnp.argmax(logits, axis=-1) == targets) | ~mask, axis=1)
    measured = {
        "loss": (total, count),
        "perplexity": (total, count),
        "accuracy": metrics.accuracy(logits, targets, mask),
        "exact": metrics.masked_sum(right.astype(jnp.float32), batch["mask"]),
    }
    if train and smoothing:
        smooth = losses.smoothed_cross_entropy(logits, targets, smoothing)
        total, _ = metrics.masked_sum(smooth, mask)
    return total / jnp.maximum(count, 1), measured, model_state, carry


def _decode_with_own_tokens(model, variables, batch, rngs, sampling: float):
    """Logits of a decoder that in every step reads its own draw with probability `sampling`."""
    targets = batch["targets"]
    key, noise = jax.random.split(rngs["dropout"])
    carry, memory = model.apply(
        variables,
        batch["inputs"],
        batch["input_mask"],
        True,
        rngs={"dropout": noise},
        method="read",
    )

    def step(state, now):
        carry, token = state
        true, key = now
        coin, draw, drop = jax.random.split(key, 3)
        carry, logits = model.apply(
            variables, carry, token, memory, True, rngs={"dropout": drop}, method="step"
        )
        own = jax.random.categorical(draw, jax.lax.stop_gradient(logits))
        use_own = jax.random.bernoulli(coin, sampling, own.shape)
        return (carry, jnp.where(use_own, own, true)), logits

    start = jnp.full(len(targets), model.start, targets.dtype)
    keys = jax.random.split(key, targets.shape[1])
    _, logits = jax.lax.scan(step, (carry, start), (targets.T, keys))
    return jnp.swapaxes(logits, 0, 1)


def _classification(
    logits, labels, mask, train: bool, top: int = 0, loss: Callable = losses.cross_entropy
):
    total, count = metrics.masked_sum(loss(logits, labels), mask)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jnp.argmax(labels, axis=-1)
    measured = {
        "loss": (total, count),
        "accuracy": metrics.accuracy(logits, labels, mask),
    }
    if not train:
        measured["confusion"] = metrics.confusion(logits, labels, mask)
        measured["calibration_error"] = metrics.calibration(logits, labels, mask)
    if top:
        measured[f"top_{top}_accuracy"] = metrics.top_k(logits, labels, mask, top)
    return total / jnp.maximum(count, 1), measured


def _regression(outputs, targets, mask, train: bool, loss: Callable):
    targets = _columns(targets, outputs)
    total, count = metrics.masked_sum(loss(outputs, targets), mask)
    error = jnp.mean(jnp.abs(outputs - targets), axis=-1)
    measured = {"loss": (total, count), "mean_absolute_error": metrics.masked_sum(error, mask)}
    if not train:
        measured["r2"] = metrics.r_squared(outputs, targets, mask)
    return total / jnp.maximum(count, 1), measured


def _columns(targets, outputs):
    """Targets `[B]` or `[B, D]` as `[B, D]`, the shape of the outputs."""
    columns = targets.reshape(len(targets), -1)
    if columns.shape != outputs.shape:
        raise UserError(
            f"the model's outputs are {list(outputs.shape)}, the labels {list(targets.shape)}; set "
            f"the model's number of outputs to {columns.shape[1]}"
        )
    return columns


def _outputs(model, variables, rngs, train, batch):
    """The model's outputs and new state; a sequence model's carry is dropped."""
    arguments = {"mask": batch["input_mask"]} if "input_mask" in batch else {}
    outputs, model_state = _apply(model, variables, rngs, train, batch["inputs"], **arguments)
    return (outputs[0] if hasattr(model, "initialize_carry") else outputs), model_state


def _apply(model, variables, rngs, train, inputs, **arguments):
    """Calls the model; in training its mutable collections (all but `params`) are returned anew."""
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    if not (train and model_state):
        outputs = model.apply(variables, inputs, train=train, rngs=rngs, **arguments)
        return outputs, model_state
    return model.apply(
        variables, inputs, train=train, rngs=rngs, mutable=list(model_state), **arguments
    )

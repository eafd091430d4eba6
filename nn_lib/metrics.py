"""Metrics as (sum, count) pairs, so that partial batches, hosts and devices add up exactly.

`means` turns accumulated pairs into numbers; it is the only place that divides. A metric that is
no mean, such as R^2, accumulates an array of sums and has its last formula in `FROM_SUMS`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rapidfuzz.distance import Levenshtein

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


def span_table(class_names: tuple[str, ...]) -> np.ndarray:
    """`int[C, 2]` for `spans`: the type of each tag (0 is outside), and whether it begins a span.

    `B-x` begins a span of type x and `I-x` goes on with one, or begins one where there is none;
    `O` is outside. A tag of another form is a type whose span is a run of it.
    """
    types: dict[str, int] = {}
    rows = []
    for name in class_names:
        prefix, dash, kind = name.partition("-")
        if name == "O":
            rows.append((0, 0))
            continue
        tagged = bool(dash) and prefix in ("B", "I")
        number = types.setdefault(kind if tagged else name, len(types) + 1)
        rows.append((number, int(tagged and prefix == "B")))
    return np.array(rows)


def spans(predicted: jax.Array, labels: jax.Array, mask: jax.Array, table: np.ndarray) -> Pair:
    """For `span_f1`: `[3]` counts of (spans found that are right, spans found, true spans).

    A span is right where its type and both of its ends are (Tjong Kim Sang & De Meulder 2003).

    Args:
      predicted: `int[B, T]` tags. labels: the true ones. table: `span_table(class_names)`.
    """

    def read(tags):
        kind = jnp.where(mask, jnp.asarray(table[:, 0])[tags], 0)
        begins = jnp.asarray(table[:, 1])[tags] == 1
        before = jnp.pad(kind, ((0, 0), (1, 0)))[:, :-1]
        starts = (kind > 0) & (begins | (kind != before))
        # The last step of the span that holds a step: the one before the next border.
        following = jnp.pad(kind, ((0, 0), (0, 1)))[:, 1:]
        again = jnp.pad(starts, ((0, 0), (0, 1)))[:, 1:]
        border = (kind != following) | again
        place = jnp.where(border, jnp.arange(kind.shape[1]), kind.shape[1])
        return kind, starts, jax.lax.cummin(place, axis=1, reverse=True)

    kind, found, end = read(predicted)
    true_kind, true, true_end = read(labels)
    right = found & true & (kind == true_kind) & (end == true_end)
    counts = jnp.stack([jnp.sum(flags.astype(jnp.float32)) for flags in (right, found, true)])
    return counts, jnp.sum(mask.astype(jnp.float32))


def transcription(pairs, decode: Callable | None = None) -> dict[str, tuple[float, float]]:
    """How far written sequences are from the nearest of the right ones, on the host.

    - `token_error_rate`: insertions, deletions and substitutions per token that is right; of
      phonemes the phoneme error rate, of words the word error rate.
    - `sequence_error_rate`: sequences that are none of the right ones; of pronunciations what is
      called the word error rate.
    - `bleu`: 0 to 100, over the vocabulary's words, by sacrebleu.

    Args:
      pairs: (written `int[N]`, [right `int[M]`, ...]) of every source.
      decode: tokens to a text; None leaves out `bleu`.
    """
    edits = length = wrong = 0
    for written, right in pairs:
        distances = [Levenshtein.distance(written.tolist(), one.tolist()) for one in right]
        best = int(np.argmin(distances))
        edits, length = edits + distances[best], length + max(len(right[best]), 1)
        wrong += distances[best] > 0
    count = float(len(pairs))
    found = {
        "token_error_rate": (float(edits), float(length)),
        "sequence_error_rate": (float(wrong), count),
    }
    if decode is not None:
        from sacrebleu import corpus_bleu  # slow to import

        most = max(len(right) for _, right in pairs)
        references: list[Any] = [
            [decode(right[i]) if i < len(right) else None for _, right in pairs]
            for i in range(most)
        ]
        texts = [decode(written) for written, _ in pairs]
        score = corpus_bleu(texts, references, tokenize="none", force=True).score
        found["bleu"] = (score * count, count)
    return found


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


def _span_f1(counts: np.ndarray, count: float) -> float:
    right, found, true = counts
    return 2 * right / max(found + true, 1)


FROM_SUMS = {
    # 2 P R / (P + R) of whole spans.
    "span_f1": _span_f1,
    # exp of the mean loss in nats per token.
    "perplexity": _perplexity,
    # 1 - sum (f - y)^2 / sum (y - mean y)^2, averaged over outputs.
    "r2": _r2,
    # sum over bins of (share of examples) |accuracy - confidence| (Guo et al. 2017).
    "calibration_error": _calibration_error,
}

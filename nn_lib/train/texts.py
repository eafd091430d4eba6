"""What a trained model says of new texts: their classes, their tags, what it writes for them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError
from nn_lib.data.text import END
from nn_lib.train.trained import Trained
from nn_lib.train.transcription import Transcription, check_transcription

TOGETHER = 256  # texts in a batch


@dataclasses.dataclass(frozen=True)
class Written:
    """One sequence that an encoder-decoder wrote.

    Attributes:
      text: without its END.
      tokens: with it, as strings.
      log_probability: of the whole, END included.
      alignment: `[T, S]`, how each token of the best one looked at the source, where asked.
      source: tokens, as strings.
      complete: whether it ended, rather than being cut at the longest length.
    """

    text: str
    tokens: list[str]
    log_probability: float
    alignment: np.ndarray | None
    source: list[str]
    complete: bool


def classify_texts(
    trained: Trained, texts: Sequence[str], top: int = 3
) -> list[list[tuple[str, float]]]:
    """The likeliest classes of each text with their probabilities, the likeliest first."""
    names = trained.facts.class_names or ()
    found = []
    for logits in _logits(trained, texts):
        row = np.asarray(jax.nn.softmax(logits))
        best = np.argsort(-row, kind="stable")[:top]
        found.append([(names[c], float(row[c])) for c in best])
    return found


def tag_texts(trained: Trained, texts: Sequence[str]) -> list[list[tuple[str, str]]]:
    """(token, its likeliest tag) of every token of each text."""
    names = trained.facts.class_names or ()
    return [
        [(piece, names[tag]) for piece, tag in zip(_pieces(trained, text), logits.argmax(-1))]
        for text, logits in zip(texts, _logits(trained, texts))
    ]


def is_tagger(trained: Trained) -> bool:
    """Whether the model gives every token a class, rather than every text."""
    model, example = trained.experiment.model, jnp.zeros((1, 3), jnp.int32)
    logits: Any = jax.eval_shape(lambda v: model.apply(v, example), trained.variables)
    return logits.ndim == 3


def write_texts(
    trained: Trained,
    texts: Sequence[str],
    *,
    beam: int = 1,
    length_penalty: float = 0.0,
    max_length: int = 100,
    aligned: bool = False,
) -> list[list[Written]]:
    """The `beam` best sequences for each source, the best first.

    Args:
      aligned: whether to find where the best of each source looked, if its model attends.
    """
    how = Transcription(beam, length_penalty, max_length)
    check_transcription(how)
    decode = how.compiled(trained.experiment.model)
    return [written for part in _parts(texts) for written in _write(trained, part, decode, aligned)]


def _write(trained: Trained, texts: Sequence[str], decode, aligned: bool) -> list[list[Written]]:
    model: Any = trained.experiment.model
    tokens, mask = encode_texts(trained, texts)
    found = jax.device_get(decode(trained.variables, tokens, mask))
    looked = None
    if aligned:
        best = found.tokens[:, 0, : found.lengths[:, 0].max()]
        looked = model.apply(trained.variables, tokens, best, mask, method="align")
    vocabulary = trained.facts.target_vocabulary
    assert vocabulary is not None
    results = []
    for row, text in enumerate(texts):
        source = list(_pieces(trained, text))
        of_text = []
        for place in np.flatnonzero(np.isfinite(found.log_probabilities[row])):
            ids = found.tokens[row, place, : found.lengths[row, place]]
            words = [vocabulary.tokens[i] for i in ids]
            complete = words[-1] == END
            weights = None
            if looked is not None and not place:
                weights = np.asarray(looked[row, : len(ids), : len(source)])
            of_text.append(
                Written(
                    text=vocabulary.decode(ids[:-1] if complete else ids),
                    tokens=words,
                    log_probability=float(found.log_probabilities[row, place]),
                    alignment=weights,
                    source=source,
                    complete=complete,
                )
            )
        results.append(of_text)
    return results


def encode_texts(trained: Trained, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """`(int32[B, T], mask bool[B, T])` as the run's data was encoded.

    Raises:
      UserError: a text of which nothing is left, one that is too long, unknown characters.
    """
    longest = trained.experiment.data.max_length
    vocabulary = trained.facts.vocabulary
    assert vocabulary is not None
    rows = []
    for text in texts:
        pieces = _pieces(trained, text)
        if not len(pieces):
            raise UserError(f"nothing is left of the text {text!r}; give it characters to read")
        if longest and len(pieces) > longest:
            raise UserError(
                f"the text {text[:40]!r} has {len(pieces)} tokens, and the model was trained on "
                f"{longest} at most (data.max_length); shorten it"
            )
        rows.append(vocabulary.encode(pieces))
    mask = np.arange(max(map(len, rows))) < np.array([len(row) for row in rows])[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.concatenate(rows)
    return tokens, mask


def _logits(trained: Trained, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The model's outputs of each text, `[C]` or `[T, C]`, a batch at a time."""
    model: Any = trained.experiment.model
    for part in _parts(texts):
        tokens, mask = encode_texts(trained, part)
        yield from np.asarray(model.apply(trained.variables, tokens, mask=mask))


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER))


def _pieces(trained: Trained, text: str) -> Sequence[str]:
    normalize = trained.experiment.data.normalize
    assert trained.facts.vocabulary is not None
    return trained.facts.vocabulary.cut(normalize(text) if normalize else text)

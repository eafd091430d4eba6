"""What a trained model says of new texts: their classes, their tags, what it writes for them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError
from nn_lib.data.text import END
from nn_lib.decoding import transcribe
from nn_lib.train.trained import Trained


@dataclasses.dataclass(frozen=True)
class Written:
    """One sequence that an encoder-decoder wrote.

    Attributes:
      text: without its END.
      tokens: with it, as strings.
      log_probability: of the whole, END included.
      alignment: `[T, S]`, how each token looked at the source; None without attention.
      source: tokens, as strings.
    """

    text: str
    tokens: list[str]
    log_probability: float
    alignment: np.ndarray | None
    source: list[str]


def classify_texts(
    trained: Trained, texts: Sequence[str], top: int = 3
) -> list[list[tuple[str, float]]]:
    """The likeliest classes of each text with their probabilities, the likeliest first."""
    tokens, mask = encode_texts(trained, texts)
    logits: Any = trained.experiment.model.apply(trained.variables, tokens, mask=mask)
    probabilities = np.asarray(jax.nn.softmax(logits))
    names = trained.facts.class_names or ()
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top]
    return [[(names[c], float(row[c])) for c in chosen] for row, chosen in zip(probabilities, best)]


def tag_texts(trained: Trained, texts: Sequence[str]) -> list[list[tuple[str, str]]]:
    """(token, its likeliest tag) of every token of each text."""
    tokens, mask = encode_texts(trained, texts)
    logits: Any = trained.experiment.model.apply(trained.variables, tokens, mask=mask)
    best = np.asarray(jnp.argmax(logits, axis=-1))
    names = trained.facts.class_names or ()
    return [
        [(piece, names[tag]) for piece, tag in zip(_pieces(trained, text), row)]
        for text, row in zip(texts, best)
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
) -> list[list[Written]]:
    """The `beam` best sequences for each source, the best first."""
    if beam < 1 or max_length < 1:
        raise UserError(f"beam and length must be above 0, got {beam} and {max_length}")
    model: Any = trained.experiment.model
    variables = trained.variables
    tokens, mask = map(jnp.asarray, encode_texts(trained, texts))
    vocabulary = trained.facts.target_vocabulary
    assert vocabulary is not None
    options: dict[str, Any] = {
        "beam": beam,
        "length_penalty": length_penalty,
        "max_length": max_length,
    }
    found = jax.jit(lambda v: transcribe(model, v, tokens, mask, **options))(variables)
    best = found.tokens[:, 0]
    aligned = model.apply(variables, tokens, best, mask, method="align")
    results = []
    for row, text in enumerate(texts):
        kept = [k for k in range(beam) if np.isfinite(found.log_probabilities[row, k])]
        source = list(_pieces(trained, text))
        of_text = []
        for k in kept:
            ids = np.asarray(found.tokens[row, k, : found.lengths[row, k]])
            words = [vocabulary.tokens[i] for i in ids]
            spoken = ids[:-1] if words[-1] == END else ids
            weights = None
            if aligned is not None and not k:
                weights = np.asarray(aligned[row, : len(ids), : len(source)])
            score = float(found.log_probabilities[row, k])
            of_text.append(Written(vocabulary.decode(spoken), words, score, weights, source))
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


def _pieces(trained: Trained, text: str) -> Sequence[str]:
    normalize = trained.experiment.data.normalize
    assert trained.facts.vocabulary is not None
    return trained.facts.vocabulary.cut(normalize(text) if normalize else text)

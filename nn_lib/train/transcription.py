"""What an encoder-decoder writes by itself, against what it should have written.

The metrics of an objective see the true tokens before each one; these do not.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from nn_lib import metrics
from nn_lib.checks import UserError
from nn_lib.data.text import END, UNKNOWN, Vocabulary
from nn_lib.decoding import transcribe

UNSEEN = -1  # of a target's word that has no number


@dataclasses.dataclass
class Transcription:
    """How an evaluation decodes.

    Attributes:
      beam: sequences kept in a beam search; 1 is greedy.
      length_penalty: alpha of the beam's ranking (Wu et al. 2016).
      max_length: tokens at which a sequence that has not ended is cut.
    """

    beam: int = 1
    length_penalty: float = 0.0
    max_length: int = 100

    def compiled(self, model) -> Callable:
        """`(variables, inputs, mask) -> Decoded`, jitted."""
        options = dataclasses.asdict(self)
        return jax.jit(functools.partial(transcribe, model, **options))


def check_transcription(how: Transcription) -> None:
    """Raises UserError for a field that cannot be meant."""
    for name in ("beam", "max_length"):
        if getattr(how, name) < 1:
            raise UserError(f"{name} must be above 0, got {getattr(how, name)}")


class Comparison:
    """Collects what was written and what was wanted.

    Equal sources are one source with several right answers, unless they hold unknown words. An
    unknown word of a target is never right.
    """

    def __init__(self, sources: Vocabulary, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._unknown_source = _number(sources, UNKNOWN)
        self._written: dict[bytes, np.ndarray] = {}
        self._wanted: dict[bytes, list[np.ndarray]] = {}

    def add(self, batch: dict, decoded) -> None:
        """A batch of sources and targets, and the `Decoded` of the sources."""
        tokens, lengths = np.asarray(decoded.tokens[:, 0]), np.asarray(decoded.lengths[:, 0])
        end = self._vocabulary.tokens.index(END)
        for row in np.flatnonzero(batch["mask"]):
            numbers = batch["inputs"][row][batch["input_mask"][row]]
            source = numbers.tobytes()
            if self._unknown_source in numbers:
                source += f" {len(self._wanted)}".encode()
            target = batch["targets"][row][batch["target_mask"][row]][:-1]
            target = np.where(target == _number(self._vocabulary, UNKNOWN), UNSEEN, target)
            written = tokens[row, : lengths[row]]
            self._written[source] = written[:-1] if written[-1] == end else written
            self._wanted.setdefault(source, []).append(target)

    def metrics(self) -> dict[str, tuple[float, float]]:
        """Of the sources: see `metrics.transcription`."""
        pairs = [(self._written[source], wanted) for source, wanted in self._wanted.items()]
        bleu = self._vocabulary.unit == "words"
        return metrics.transcription(pairs, self._decode if bleu else None)

    def _decode(self, tokens) -> str:
        names = self._vocabulary.tokens
        return " ".join("<unseen>" if token == UNSEEN else names[token] for token in tokens)


def _number(vocabulary: Vocabulary, token: str) -> int:
    return vocabulary.tokens.index(token) if token in vocabulary.tokens else UNSEEN - 1

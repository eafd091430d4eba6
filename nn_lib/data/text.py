"""Text: files to strings, strings to token numbers and back."""

import dataclasses
import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nn_lib.checks import UserError

START, END, UNKNOWN = "<start>", "<end>", "<unknown>"
# A vocabulary of outputs begins with the two that frame a sequence.
FRAME = (START, END)
UNITS = ("characters", "words")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokens that a model knows; a token's number is its position.

    Attributes:
      tokens: characters or words; where UNKNOWN is among them it stands for every other token.
      unit: what a text is cut into, 'characters' or 'words' (at white space).
    """

    tokens: tuple[str, ...]
    unit: str = "characters"

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """Every character that occurs in the text, in the order of their code points."""
        return cls(tuple(sorted(set(text))))

    @classmethod
    def counted(
        cls,
        texts: Iterable[Sequence[str]],
        unit: str,
        *,
        first: tuple[str, ...] = (),
        min_count: int = 1,
    ) -> "Vocabulary":
        """The tokens that occur `min_count` times or more, the most frequent first.

        Args:
          texts: each cut into tokens.
          first: tokens with the numbers before all others.
        """
        counts = Counter(token for text in texts for token in text)
        for token in first:
            counts.pop(token, None)
        frequent = [token for token, count in counts.items() if count >= min_count]
        return cls((*first, *sorted(frequent, key=lambda token: (-counts[token], token))), unit)

    def __len__(self) -> int:
        return len(self.tokens)

    def cut(self, text: str) -> Sequence[str]:
        """A text as its tokens."""
        return text if self.unit == "characters" else text.split()

    def encode(self, text: str | Sequence[str]) -> np.ndarray:
        """`int32[N]`, the numbers of a text's tokens (or of tokens already cut).

        Raises:
          UserError: tokens that the vocabulary does not hold, where it has no UNKNOWN.
        """
        if isinstance(text, str) and self._is_sorted:
            return self._encode_characters(text)
        pieces = self.cut(text) if isinstance(text, str) else text
        unknown = self._numbers.get(UNKNOWN)
        numbers = [self._numbers.get(piece, unknown) for piece in pieces]
        if None in numbers:
            self._refuse({piece for piece in pieces if piece not in self._numbers})
        return np.array(numbers, np.int32)

    def decode(self, tokens) -> str:
        between = "" if self.unit == "characters" else " "
        return between.join(self.tokens[token] for token in tokens)

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, found) -> "Vocabulary | None":
        """What `to_json` wrote; a bare list of characters is the form of older runs."""
        if not found:
            return None
        if isinstance(found, list):
            return cls(tuple(found))
        return cls(tuple(found["tokens"]), found["unit"])

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @functools.cached_property
    def _is_sorted(self) -> bool:
        """Single characters in the order of their code points: text is encoded at once."""
        single = self.unit == "characters" and all(len(token) == 1 for token in self.tokens)
        return single and list(self.tokens) == sorted(self.tokens)

    def _encode_characters(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = np.array([ord(character) for character in self.tokens], np.uint32)
        tokens = np.searchsorted(known, codes)
        found = known[np.minimum(tokens, len(known) - 1)] == codes
        if not found.all():
            self._refuse({chr(code) for code in codes[~found]})
        return tokens.astype(np.int32)

    def _refuse(self, strange: set[str]) -> None:
        between, kept = ("", 20) if self.unit == "characters" else (" ", 5)
        listed = between.join(sorted(strange)[:kept])
        knows = between.join(token for token in self.tokens if token not in FRAME)
        if len(knows) > 200:
            knows = knows[:200] + " ..."
        raise UserError(
            f"the text holds {self.unit} that the model's vocabulary lacks: {listed!r}; it knows "
            f"{knows!r}"
        )


LETTERS = string.ascii_letters + " .,;'"


def to_ascii_letters(text: str) -> str:
    """Accents off, and only the 57 characters of `LETTERS` kept, as the name tutorial does."""
    plain = unicodedata.normalize("NFD", text)
    return "".join(character for character in plain if character in LETTERS)


def simple_words(text: str) -> str:
    """Lower case, with spaces around punctuation and before `n't`, `'s` and their like."""
    text = re.sub(r"(n't|'(?:s|ve|re|d|ll|m))\b", r" \1", text.lower())
    return re.sub(r"([^\w\s'])", r" \1 ", text)


def read_corpus(path: str, encoding: str) -> str:
    """The text file at `path`, or the files of a folder by name, one newline between them.

    In a folder, hidden files and files that hold a zero byte (no text) are passed over.

    Raises:
      UserError: nothing there, an unknown encoding, bytes that are not of it, no text.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"data.path: there is no file or folder {path!r}; check the spelling")
    files = [place]
    if place.is_dir():
        files = sorted(
            file
            for file in place.rglob("*")
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(place).parts)
        )
    texts = []
    for file in files:
        raw = _bytes(file)
        wide = encoding.lower().startswith(("utf-16", "utf-32"))
        if place.is_dir() and b"\0" in raw and not wide:
            continue
        texts.append(_decode(raw, file, encoding))
    text = "\n".join(text for text in texts if text)
    if not text.strip():
        what = "folder holds no text files" if place.is_dir() else "file is empty"
        raise UserError(f"data.path: the {what}: {path!r}")
    return text


def read_text(file: Path, encoding: str) -> str:
    """One file's text; UserError where it cannot be read or is not of the encoding."""
    return _decode(_bytes(file), file, encoding)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"data.path: cannot read {str(file)!r}: {error.strerror}") from error


def _decode(raw: bytes, file: Path, encoding: str) -> str:
    try:
        text = raw.decode(encoding)
    except (LookupError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(
                f"data.path: {str(file)!r} is not {encoding} (byte {error.start}); name its "
                "encoding, --config.data.encoding=latin-1 for example"
            ) from error
        raise UserError(f"data.encoding {encoding!r} is unknown; utf-8 or latin-1, say") from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")

"""Text: files to one string, a string to token numbers and back."""

import dataclasses
from pathlib import Path

import numpy as np

from nn_lib.checks import UserError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The characters that a model knows, in the order of their code points; token = position."""

    characters: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """Every character that occurs in the text."""
        return cls(tuple(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """`int32[N]` tokens.

        Raises:
          UserError: characters that the vocabulary does not hold.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = np.array([ord(character) for character in self.characters], np.uint32)
        tokens = np.searchsorted(known, codes)
        found = known[np.minimum(tokens, len(known) - 1)] == codes
        if not found.all():
            strange = "".join(sorted({chr(code) for code in codes[~found]}))
            raise UserError(
                f"the text holds characters that the model's vocabulary lacks: {strange!r}; it "
                f"knows {''.join(self.characters)!r}"
            )
        return tokens.astype(np.int32)

    def decode(self, tokens) -> str:
        return "".join(self.characters[token] for token in tokens)


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
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise UserError(f"data.path: cannot read {str(file)!r}: {error.strerror}") from error
        wide = encoding.lower().startswith(("utf-16", "utf-32"))
        if place.is_dir() and b"\0" in raw and not wide:
            continue
        texts.append(_decode(raw, file, encoding))
    text = "\n".join(text for text in texts if text)
    if not text.strip():
        what = "folder holds no text files" if place.is_dir() else "file is empty"
        raise UserError(f"data.path: the {what}: {path!r}")
    return text


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

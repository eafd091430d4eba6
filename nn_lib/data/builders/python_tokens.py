"""`python_tokens`: the lexical class of every character of Python source, by `tokenize`."""

import io
import keyword
import platform
import sysconfig
import tokenize
from pathlib import Path

import tensorflow_datasets as tfds

CLASSES = ("name", "keyword", "number", "string", "comment", "operator")
# Modules of the standard library that every Python from 3.11 on has.
MODULES = (
    *("abc", "argparse", "ast", "base64", "calendar", "cmd", "configparser", "contextlib", "csv"),
    *("dataclasses", "datetime", "difflib", "enum", "fractions", "functools", "gettext", "glob"),
    *("gzip", "inspect", "locale", "mimetypes", "optparse", "pickle", "platform", "random"),
    *("selectors", "shelve", "shlex", "shutil", "socket", "statistics", "string", "tempfile"),
    *("textwrap", "threading", "timeit", "tokenize", "uuid", "weakref", "zipfile"),
)


class PythonTokens(tfds.core.GeneratorBasedBuilder):
    """Lines of the standard library's source, a tag for each character.

    `B-name` is the first character of a name, `I-name` a later one, `O` a space, and so for
    keywords, numbers, strings, comments and operators. A line is tagged as part of its file, so
    inside of a docstring all of it is string; lines of more than 100 characters are left out. The
    modules are split 80/10/10 by their order.

    The source differs between Python versions; each has a config of its own.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name=platform.python_version(),
            description="The source of this Python's library.",
        ),
    )

    def _info(self):
        names = ["O", *(f"{prefix}-{kind}" for kind in CLASSES for prefix in "BI")]
        return self.dataset_info_from_configs(
            description="Python source, the lexical class of each character.",
            features=tfds.features.FeaturesDict(
                {
                    "line": tfds.features.Text(),
                    "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=names)),
                }
            ),
            supervised_keys=("line", "tags"),
        )

    def _split_generators(self, dl_manager):
        there = [file for file in map(_source, MODULES) if file.is_file()]
        parts = {"train": [], "validation": [], "test": []}
        for index, file in enumerate(there):
            split = {8: "validation", 9: "test"}.get(index % 10, "train")
            parts[split].append(file)
        return {split: self._generate_examples(files) for split, files in parts.items()}

    def _generate_examples(self, files):
        seen = set()
        for file in files:
            for line, tags in tagged_lines(file.read_text(encoding="utf-8")):
                if line not in seen:
                    seen.add(line)
                    yield len(seen), {"line": line, "tags": tags}


def tagged_lines(source: str, longest: int = 100) -> list[tuple[str, list[str]]]:
    """(line, a tag for each of its characters) of every line that holds a token."""
    lines = source.splitlines()
    tags = [["O"] * len(line) for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = _class(token)
        if kind is None:
            continue
        (first, left), (last, right) = token.start, token.end
        mark = f"B-{kind}"
        for row in range(first, last + 1):
            begin = left if row == first else 0
            end = right if row == last else len(lines[row - 1])
            for column in range(begin, min(end, len(lines[row - 1]))):
                tags[row - 1][column] = mark
                mark = f"I-{kind}"
    return [
        (line, marks)
        for line, marks in zip(lines, tags)
        if 0 < len(line) <= longest and line.isascii() and set(marks) != {"O"}
    ]


def _class(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else "name"
    named = tokenize.tok_name[token.type]
    if named.startswith(("FSTRING", "TSTRING")):
        return "string"
    kinds = {"NUMBER": "number", "STRING": "string", "COMMENT": "comment", "OP": "operator"}
    return kinds.get(named)


def _source(module: str) -> Path:
    return Path(sysconfig.get_path("stdlib")) / f"{module}.py"

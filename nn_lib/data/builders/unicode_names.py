"""`unicode_names`: the names of characters, which every Python knows, to be classified."""

import itertools
import unicodedata
from collections import Counter

import numpy as np
import tensorflow_datasets as tfds


class UnicodeNames(tfds.core.GeneratorBasedBuilder):
    """Texts with a class each, in two configs.

    - `scripts`: the name of a letter ('ALEPH', 'KSI') and the script that it is of: to classify
      a short name by its characters.
    - `categories`: the whole name of a character ('LATIN SMALL LETTER A WITH ACUTE') and its
      general category (uppercase letter, mathematical symbol): to classify a text by its words.

    The names are those of Unicode 3.2, which every Python carries as well as its own.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="scripts", description="Names of letters by script."),
        tfds.core.BuilderConfig(name="categories", description="Names by general category."),
    )

    def _info(self):
        names = sorted({label for _, label in self._rows()})
        return self.dataset_info_from_configs(
            description="Names of the characters of Unicode.",
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=names),
                }
            ),
            supervised_keys=("text", "label"),
        )

    def _split_generators(self, dl_manager):
        rows = self._rows()
        order = np.random.default_rng(0).permutation(len(rows))
        first, second = len(rows) * 80 // 100, len(rows) * 90 // 100
        parts = {
            "train": order[:first],
            "validation": order[first:second],
            "test": order[second:],
        }
        return {
            split: self._generate_examples([rows[row] for row in part])
            for split, part in parts.items()
        }

    def _generate_examples(self, rows):
        for index, (text, label) in enumerate(rows):
            yield index, {"text": text, "label": label}

    def _rows(self) -> list[tuple[str, str]]:
        return letter_names() if self.builder_config.name == "scripts" else category_names()


GENERATED = ("CJK ", "HANGUL SYLLABLE ", "YI SYLLABLE ", "BRAILLE ", "CANADIAN SYLLABICS ")
CATEGORIES = {
    "Ll": "lowercase letter",
    "Lo": "other letter",
    "Lu": "uppercase letter",
    "Mn": "mark",
    "Nd": "digit",
    "No": "other number",
    "Po": "punctuation",
    "Sm": "mathematical symbol",
    "So": "other symbol",
}


def letter_names(least: int = 40) -> list[tuple[str, str]]:
    """(name, script) of the letters of every script that has `least` of them or more."""
    rows = {}
    for name, category in _named():
        script, separator, letter = name.partition(" LETTER ")
        script, letter = (
            script.removesuffix(" SMALL").removesuffix(" CAPITAL"),
            letter.split(" WITH")[0],
        )
        if separator and category.startswith("L") and " " not in script and len(letter) > 1:
            rows[letter, script.title()] = None
    counts = Counter(script for _, script in rows)
    return [(letter, script) for letter, script in rows if counts[script] >= least]


def category_names() -> list[tuple[str, str]]:
    """(name, general category) of the characters with names of their own."""
    return [(name, CATEGORIES[c]) for name, c in _named() if c in CATEGORIES]


def _named():
    """(name, category) of every character of Unicode 3.2 whose name is not made by a rule."""
    table = unicodedata.ucd_3_2_0
    for code in itertools.chain(range(0xA000), range(0xF900, 0x20000)):
        name = table.name(chr(code), "")
        if name and not name.startswith(GENERATED):
            yield name, table.category(chr(code))

"""Parts of texts and of tables, in per cent: '0:90' is the first nine tenths."""

import itertools
from collections.abc import Mapping

import numpy as np

from nn_lib.checks import UserError
from nn_lib.data.tables import Table

SPLITS = ("train", "validation", "test")
# What a configuration asks for: a range, '' for no such split, None for the default.
Asked = Mapping[str, str | None]


def cut_text(text: str, asked: Asked) -> dict[str, str]:
    """90 % of the characters to train on, 5 % each to validate and to test, or as asked."""
    ranges = _ranges(asked, {"train": "0:90", "validation": "90:95", "test": "95:100"})
    return {
        split: text[len(text) * start // 100 : len(text) * stop // 100]
        for split, (start, stop) in ranges.items()
    }


def cut_tables(
    tables: Mapping[str, Table], asked: Asked, *, distinct: bool, path: str | None
) -> dict[str, Table]:
    """The splits that files of their own are, and parts of one table in a fixed random order.

    Args:
      tables: of `read_tables`: one under '', which is cut 80/10/10; or 'train' and others, where
        'train' is cut 90/10 if it must make the validation split too.
      distinct: keep a text that occurs twice in one part.
    """
    if "" in tables:
        found: dict[str, Table] = {}
        whole = tables[""]
        defaults = {"train": "0:80", "validation": "80:90", "test": "90:100"}
    else:
        _check_files(tables, asked, path)
        found = {split: table for split, table in tables.items() if asked[split] != ""}
        whole = found.pop("train")
        makes_both = "validation" not in tables and asked["validation"] != ""
        defaults = {"train": "0:90", "validation": "90:100"} if makes_both else {"train": "0:100"}
    texts = whole.texts if distinct else list(enumerate(whole.texts))
    names = list(dict.fromkeys(texts))
    order = dict(zip(names, np.random.default_rng(0).permutation(len(names)).tolist()))
    at = np.array([order[text] for text in texts])
    for split, (start, stop) in _ranges({k: asked[k] for k in defaults}, defaults).items():
        inside = (at >= len(names) * start // 100) & (at < len(names) * stop // 100)
        if not inside.any():
            raise UserError(
                f"the {split} split of {path!r} has no examples; it has {len(texts)} in all: use "
                "more of them, or other data.*_split"
            )
        found[split] = whole.rows(np.flatnonzero(inside))
    return {split: found[split] for split in SPLITS if split in found}


def _check_files(tables: Mapping[str, Table], asked: Asked, path: str | None) -> None:
    """A split that is a file of its own has no range."""
    for split in tables:
        if split != "train" and asked[split]:
            raise UserError(
                f"data.{split}_split {asked[split]!r}: {path!r} has a file for this split; leave "
                "it out, or '' to do without"
            )


def _ranges(asked: Asked, defaults: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """The parts, in per cent, that do not overlap."""
    ranges: dict[str, tuple[int, int]] = {}
    for split, default in defaults.items():
        wanted = asked[split]
        span = default if wanted is None else wanted
        if not span:
            continue
        try:
            start, stop = (int(edge) for edge in span.split(":"))
            valid = 0 <= start < stop <= 100
        except ValueError:
            valid = False
        if not valid:
            raise UserError(
                f"data.{split}_split of a text expects per cents such as '0:90', got {span!r}"
            )
        ranges[split] = (start, stop)
    if any(stop > start for (_, stop), (start, _) in itertools.pairwise(sorted(ranges.values()))):
        raise UserError(f"the splits of the text overlap: {ranges}; set all three data.*_split")
    if "train" not in ranges:
        raise UserError("data.train_split is empty; there is nothing to train on")
    return ranges

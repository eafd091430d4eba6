"""Texts of different lengths as token numbers, cut into buckets so that little is padded.

A bucket is a pair of lengths, of inputs and of targets; a batch is padded to the smallest bucket
that holds all of it, so there are as many compiled programs as buckets.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nn_lib.checks import UserError
from nn_lib.data.tables import Table
from nn_lib.data.text import END, FRAME, UNKNOWN, Vocabulary

POOL = 32  # batches that are sorted by length together


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Sequences of numbers, one after the other in one array."""

    flat: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray]) -> "Ragged":
        flat = np.concatenate([np.zeros(0, np.int32), *sequences]).astype(np.int32)
        return cls(flat, np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64))

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.flat[self.ends[index] - self.lengths[index] : self.ends[index]]

    def padded(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """`(int32[B, length], mask bool[B, length])` of some rows; zeros where masked."""
        steps = np.arange(length)
        mask = steps < self.lengths[rows, None]
        at = (self.ends - self.lengths)[rows, None] + steps
        return np.where(mask, self.flat[np.where(mask, at, 0)], 0).astype(np.int32), mask


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """One split of texts with what belongs to them.

    Attributes:
      kind: 'classes', 'tags' or 'pairs'.
      inputs: tokens of the texts.
      labels: `int32[N]` classes; of tags one sequence as long as the text; of pairs the target
        with END behind it.
      edges: `int[K]`, the lengths of inputs that buckets are padded to.
      target_edges: `int[K]`, the lengths of targets likewise; zeros where there are none.
    """

    kind: str
    inputs: Ragged
    labels: np.ndarray | Ragged
    edges: np.ndarray
    target_edges: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs.ends)

    @functools.cached_property
    def buckets(self) -> np.ndarray:
        """Of every example, the smallest that holds both of its lengths."""
        found = np.searchsorted(self.edges, self.inputs.lengths)
        if isinstance(self.labels, Ragged) and self.kind == "pairs":
            found = np.maximum(found, np.searchsorted(self.target_edges, self.labels.lengths))
        return found

    def gather(self, rows: np.ndarray, *, beside: np.ndarray | None = None) -> dict:
        """The examples `rows` as one batch, padded for the examples `beside` as well.

        Returns:
          `inputs int32[B, S]`, `input_mask bool[B, S]`, and `labels int32[B]` (classes),
          `labels int32[B, S]` (tags), or `targets int32[B, T]`, `target_mask bool[B, T]` (pairs).
        """
        bucket = self.buckets[rows if beside is None else beside].max()
        length = int(self.edges[bucket])
        inputs, mask = self.inputs.padded(rows, length)
        batch = {"inputs": inputs, "input_mask": mask}
        if not isinstance(self.labels, Ragged):
            return {**batch, "labels": self.labels[rows]}
        if self.kind == "tags":
            return {**batch, "labels": self.labels.padded(rows, length)[0]}
        targets, target_mask = self.labels.padded(rows, int(self.target_edges[bucket]))
        return {**batch, "targets": targets, "target_mask": target_mask}

    def fingerprint(self) -> int:
        """A checksum of all of it."""
        labels = self.labels.flat if isinstance(self.labels, Ragged) else self.labels
        value = 0
        for array in (self.inputs.flat, self.inputs.ends, labels):
            value = zlib.crc32(np.ascontiguousarray(array).tobytes(), value)
        return value

    def epoch_order(self, seed: int, epoch: int, batch_size: int) -> np.ndarray:
        """A permutation drawn from (seed, epoch), in which batches are of like lengths.

        Examples are shuffled, then sorted by length within pools of `POOL` batches, and the batches
        of a pool shuffled. A batch that begins in the epoch before is completed first.
        """
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self))
        head = -(epoch * len(self)) % batch_size
        parts = [order[:head]]
        for start in range(head, len(order), POOL * batch_size):
            pool = order[start : start + POOL * batch_size]
            key = (self.inputs.lengths[pool], self.buckets[pool])
            pool = pool[np.lexsort(key)]
            whole = len(pool) // batch_size * batch_size
            batches = pool[:whole].reshape(-1, batch_size)
            parts += [batches[rng.permutation(len(batches))].ravel(), pool[whole:]]
        return np.concatenate(parts)

    def by_length(self) -> np.ndarray:
        """The order of an evaluation."""
        return np.lexsort((self.inputs.lengths, self.buckets))


@dataclasses.dataclass(frozen=True)
class EncodedTables:
    """What `encode_tables` returns."""

    splits: dict[str, Sequences]
    sizes: dict[str, int]
    vocabulary: Vocabulary
    target_vocabulary: Vocabulary | None
    class_names: tuple[str, ...] | None


def encode_tables(
    tables: dict[str, Table],
    *,
    unit: str,
    target_unit: str,
    alphabet: str = "",
    min_count: int = 1,
    max_length: int = 0,
    buckets: int = 4,
) -> EncodedTables:
    """Tables of one kind as numbers.

    Words are those of the training split, the others UNKNOWN; characters are those of all splits,
    or the alphabet, and others are refused.

    Raises:
      UserError: one class only, a label that training lacks, a text longer than `max_length`
        tokens, characters outside of the alphabet.
    """
    train = tables["train"]
    kind = train.kind
    cut = {split: _cut(table.texts, unit) for split, table in tables.items()}
    vocabulary = _vocabulary(cut, unit, (), alphabet, min_count)
    for split, table in tables.items():
        _check_lengths(cut[split], table.places, max_length)
    inputs = {split: _numbers(vocabulary, cut[split], tables[split].places) for split in tables}
    sizes, target_vocabulary, class_names = {"vocab_size": len(vocabulary)}, None, None
    labels: dict[str, np.ndarray | Ragged] = {}
    if kind == "pairs":
        wanted = {split: _cut(table.targets, target_unit) for split, table in tables.items()}
        target_vocabulary = _vocabulary(wanted, target_unit, FRAME, "", min_count)
        for split, table in tables.items():
            framed = [[*tokens, END] for tokens in wanted[split]]
            labels[split] = _numbers(target_vocabulary, framed, table.places)
        sizes["target_size"] = len(target_vocabulary)
    else:
        class_names = train.class_names or _class_names(train)
        number = {name: index for index, name in enumerate(class_names)}
        for split, table in tables.items():
            labels[split] = _labels(table, cut[split], number)
        sizes["num_classes"] = len(class_names)
    edges, target_edges = _edges(inputs, labels if kind == "pairs" else {}, buckets)
    splits = {
        split: Sequences(kind, inputs[split], labels[split], edges, target_edges)
        for split in tables
    }
    return EncodedTables(splits, sizes, vocabulary, target_vocabulary, class_names)


def sequence_evaluation(split: Sequences, size: int, part: np.ndarray) -> Iterator[dict]:
    """Every example once, the shortest first; the last batch is padded, with `mask` false."""
    order = split.by_length()
    for start in range(0, len(split), size):
        places = start + np.arange(size)
        mask = places < len(split)
        rows = order[np.where(mask, places, start)]
        yield {**split.gather(rows[part], beside=rows), "mask": mask[part]}


def _cut(texts: list, unit: str) -> list[Sequence[str]]:
    come_cut = (token for text in texts if not isinstance(text, str) for token in text)
    longer = next((token for token in come_cut if len(token) > 1), None)
    if unit == "characters" and longer is not None:
        raise UserError(
            f"data.unit is 'characters', but the texts come cut into words such as {longer!r}; set "
            "it to words"
        )
    cut: Callable = Vocabulary((), unit).cut
    return [cut(text) if isinstance(text, str) else text for text in texts]


def _vocabulary(cut, unit: str, first: tuple[str, ...], alphabet: str, min_count: int):
    if alphabet:
        return Vocabulary((*first, *alphabet), unit)
    if unit == "words":
        first = (*first, UNKNOWN)
        return Vocabulary.counted(cut["train"], unit, first=first, min_count=min_count)
    texts = [text for split in cut for text in cut[split]]
    if min_count > 1:
        return Vocabulary.counted(texts, unit, first=(*first, UNKNOWN), min_count=min_count)
    return Vocabulary((*first, *sorted(set().union(*texts))), unit)


def _numbers(vocabulary: Vocabulary, texts, places: list[str]) -> Ragged:
    rows = []
    for text, place in zip(texts, places):
        try:
            rows.append(vocabulary.encode(text))
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
    return Ragged.of(rows)


def _check_lengths(texts, places: list[str], longest: int) -> None:
    for text, place in zip(texts, places):
        if not len(text):
            raise UserError(f"{place}: nothing is left of the text after data.normalize")
        if longest and len(text) > longest:
            raise UserError(
                f"{place} has {len(text)} tokens, more than data.max_length {longest}; raise it, "
                "or shorten the text"
            )


def _class_names(train: Table) -> tuple[str, ...]:
    found = {
        t for target in train.targets for t in ((target,) if isinstance(target, str) else target)
    }
    if len(found) < 2:
        raise UserError(
            f"the training data has one class only, {min(found)!r}; a classifier needs two or more"
        )
    return tuple(sorted(found))


def _labels(table: Table, texts, number: dict[str, int]) -> np.ndarray | Ragged:
    rows = []
    for text, target, place in zip(texts, table.targets, table.places):
        tags = (target,) if table.kind == "classes" else target
        for tag in tags:
            if tag not in number:
                raise UserError(
                    f"{place}: the label {tag!r} does not occur in the training data, which has "
                    f"{', '.join(list(number)[:20])}"
                )
        if table.kind == "tags" and len(tags) != len(text):
            raise UserError(
                f"{place}: {len(text)} tokens, but {len(tags)} tags; is data.unit right?"
            )
        rows.append(np.array([number[tag] for tag in tags], np.int32))
    return np.concatenate(rows) if table.kind == "classes" else Ragged.of(rows)


def _edges(inputs: dict, targets: dict, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths at equal shares of the examples, and those of all but a hundredth of the targets.

    That hundredth goes into the next bucket.
    """
    lengths = np.concatenate([ragged.lengths for ragged in inputs.values()])
    shares = np.arange(1, buckets + 1) / buckets
    edges = np.unique(np.quantile(lengths, shares, method="higher"))
    if not targets:
        return edges, np.zeros_like(edges)
    wanted = np.concatenate([targets[split].lengths for split in inputs])
    longest = [np.quantile(wanted[lengths <= edge], 0.99, method="higher") for edge in edges]
    longest[-1] = wanted.max()
    return edges, np.maximum.accumulate(longest)

"""Where data comes from: a TFDS name or a text path in, the splits of a `DataSet` out."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from nn_lib.checks import UserError, check_choice, nearest
from nn_lib.data import tfds_source
from nn_lib.data.bad_examples import BadExamples
from nn_lib.data.examples import read_examples
from nn_lib.data.sequences import encode_tables
from nn_lib.data.splits import cut_tables, cut_text
from nn_lib.data.tables import LAYOUTS, Table, read_tables
from nn_lib.data.text import UNITS, Vocabulary, read_corpus


@dataclasses.dataclass
class DataConfig:
    """Names a data set and what to do with it.

    Attributes:
      name: an embedded data set ('digits', 'mnist1d', 'python_docs'), or any TFDS name, with its
        config after a slash ('mnist1d/shuffled'). With `path`, only a label.
      data_dir: where TFDS data sets lie; None means `TFDS_DATA_DIR` or TFDS's own default.
      path: a text file, or a folder whose text files are read in the order of their names.
      layout: of the files at `path`: 'text' is one long text for a language model; 'labelled',
        'trec', 'folder', 'columns', 'pairs' and 'cmudict' are those of `nn_lib.data.tables`.
      encoding: of the text at `path`.
      unit: what texts with labels, tags or targets are cut into, 'characters' or 'words' (at white
        space).
      target_unit: likewise for the targets of pairs.
      features: of a TFDS set that does not say so itself, its (text, target), `('tokens', 'ner')`
        for example.
      normalize: `str -> str` on every such text, before it is cut; sources of pairs, not targets.
      alphabet: the characters that the model knows; '' takes those that occur.
      min_count: how often a token must occur to have a number of its own; words that occur less
        often in training, or not at all, share that of the unknown word.
      distinct: where one table is cut into splits, keep a text that occurs twice in one of them,
        so that no evaluation meets a text of training; otherwise its rows are split one by one.
      max_length: tokens that a text may have; 0 for any number.
      buckets: lengths that texts are padded to, at equal shares of the examples.
      train_split: TFDS split expression such as 'train[:90%]'; None takes the data set's own
        split, less the last tenth where there is none for validation. For text at `path` a range
        of its characters in per cent, '0:90' for example, and for a table one of its texts in a
        fixed random order.
      validation_split: likewise; '' means none.
      test_split: likewise, None where the data set has none; only the final evaluation reads its
        examples (of a text, its characters are in the vocabulary).
      sequence_length: T of the windows that a character corpus is read in: k1 of truncated
        back-propagation.
      overlap: characters before a training window that are read with it again, so that its losses
        reach further back: k2 = overlap + sequence_length.
      document_end: the character after which a text's next document begins, with the initial
        state; '' makes it one document.
      image_size: resizes every image on reading so that its shorter side has so many pixels, and
        takes the square in its middle; for sets whose images differ in size.
      shorter_side: resizes the shorter side to so many pixels instead, before the middle square of
        `image_size` is taken; 256 for 224 in evaluations of ImageNet.
      crop: `(picture, size, rng) -> uint8[size, size, C]` on reading, in training only, such as
        `images.random_resized_crop`; the split is then decoded anew in every epoch.
      workers: processes that read and decode ahead what is not kept in memory; -1 is one for every
        core that the run may use, 0 two threads. Changes no result.
      max_bad_examples: how many may fail to decode before the run stops. In training the next one
        that can be decoded stands in for each, in evaluation it does not count.
      derive: `batch -> batch` inside jit, in training and evaluation; adds targets that are
        computed from the rest, before `prepare`.
      prepare: `inputs -> inputs` on whole batches inside jit, in training and evaluation.
      augment: `(key, batch) -> batch` inside jit, in training only; after `prepare`.
      in_memory_limit: bytes of decoded arrays up to which a split is held in memory; a larger one
        is decoded while training.
    """

    name: str = "mnist1d"
    data_dir: str | None = None
    path: str | None = None
    layout: str = "text"
    encoding: str = "utf-8"
    unit: str = "characters"
    target_unit: str = "characters"
    features: tuple[str, ...] = ()
    normalize: Callable | None = None
    alphabet: str = ""
    min_count: int = 1
    distinct: bool = True
    max_length: int = 0
    buckets: int = 4
    train_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    sequence_length: int = 100
    overlap: int = 0
    document_end: str = ""
    image_size: int | None = None
    shorter_side: int | None = None
    crop: Callable | None = None
    workers: int = 0
    max_bad_examples: int = 100
    derive: Callable | None = None
    prepare: Callable | None = None
    augment: Callable | None = None
    in_memory_limit: int = 2_000_000_000

    @property
    def splits(self) -> dict[str, str | None]:
        """What is asked of each split."""
        return {
            "train": self.train_split,
            "validation": self.validation_split,
            "test": self.test_split,
        }

    def prepare_batch(self, batch: dict) -> dict:
        """The batch as models take it: `derive`, then `prepare`, or bytes as 0..1 without it."""
        if self.derive is not None:
            batch = self.derive(batch)
        inputs = batch["inputs"]
        if self.prepare is not None:
            inputs = self.prepare(inputs)
        elif inputs.dtype == np.uint8:
            inputs = inputs.astype(np.float32) / 255
        return {**batch, "inputs": inputs}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The splits of one data set, each read on first use, and what its model must know.

    Attributes:
      readers: split name -> a function that reads it; absent where there is no such split.
      sizes: fields of a model that only the data can fill: `num_classes` (of a regression, the
        number of targets), `vocab_size`, `target_size`.
      class_names: of the labels, where there are labels.
      vocabulary: of a character corpus or of texts.
      sequence_length: of a character corpus, else 0.
      overlap: of its training windows.
      target_vocabulary: of the targets of pairs.
      bad: what of its examples cannot be decoded.
    """

    name: str
    readers: dict[str, Callable[[], Any]]
    sizes: dict[str, int]
    class_names: tuple[str, ...] | None = None
    vocabulary: Vocabulary | None = None
    sequence_length: int = 0
    overlap: int = 0
    target_vocabulary: Vocabulary | None = None
    bad: BadExamples | None = None
    _read: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def split(self, name: str):
        """The split called 'train', 'validation' or 'test'; UserError where there is none."""
        if name not in self.readers:
            have = ", ".join(self.readers)
            raise UserError(f"data set {self.name!r} has no {name} split here; it has {have}")
        if name not in self._read:
            self._read[name] = self.readers[name]()
        return self._read[name]

    def fingerprint(self) -> int:
        """A checksum that tells this data from other: of the training split, for text of all."""
        splits = sorted(self.readers) if self.vocabulary else ["train"]
        return zlib.crc32(repr([self.split(name).fingerprint() for name in splits]).encode())


def load(config: DataConfig) -> DataSet:
    """Finds the data set that `config` names; embedded ones are built on first use.

    Raises:
      UserError: an unknown name (with the nearest ones), a data set that is not prepared, a text
        that is missing, empty or not in its encoding, a split that does not exist.
    """
    if config.layout not in ("text", *LAYOUTS):
        raise UserError(
            f"data.layout {config.layout!r} is unknown; {nearest(config.layout, LAYOUTS)}"
        )
    if config.path is None and config.layout != "text":
        raise UserError(f"data.layout {config.layout!r} is that of files; name them by data.path")
    if config.path == "":
        raise UserError("data.path is empty; name a text file or folder, or leave it out")
    if config.path is not None and config.layout != "text":
        tables = {
            split: table.normalized(config.normalize)
            for split, table in read_tables(config.path, config.encoding, config.layout).items()
        }
        parts = cut_tables(tables, config.splits, distinct=config.distinct, path=config.path)
        return _table_data_set(config, parts)
    if config.path is not None:
        text = read_corpus(config.path, config.encoding)
        return _text_data_set(config, cut_text(text, config.splits))
    builder = tfds_source.find(config.name, config.data_dir)
    kind, keys = tfds_source.kind(builder, config.features)
    expressions = tfds_source.split_expressions(
        builder, config.train_split, config.validation_split, config.test_split
    )
    if kind == "text":
        texts = {
            split: tfds_source.read_text(builder, expression, keys)
            for split, expression in expressions.items()
        }
        return _text_data_set(config, texts)
    if kind != "examples":
        read = functools.partial(tfds_source.read_table, builder, kind=kind, keys=keys)
        tables = {
            split: read(expression).normalized(config.normalize)
            for split, expression in expressions.items()
        }
        return _table_data_set(config, tables)
    labels = builder.info.features[keys[1]]
    bad = BadExamples(config.name, config.max_bad_examples)
    readers: dict[str, Callable[[], Any]] = {
        split: functools.partial(
            read_examples,
            builder,
            expression,
            keys,
            bad,
            config,
            crop=config.crop if split == "train" else None,
        )
        for split, expression in expressions.items()
    }
    classes = tfds_source.classes(labels)
    return DataSet(
        name=config.name,
        readers=readers,
        sizes={"num_classes": classes.num_classes if classes else math.prod(labels.shape)},
        class_names=tuple(classes.names) if classes else None,
        bad=bad,
    )


def _text_data_set(config: DataConfig, texts: dict[str, str]) -> DataSet:
    """The vocabulary is that of all splits, so that no evaluation meets a strange character."""
    for split, text in texts.items():
        if len(text) < 2:
            raise UserError(
                f"the {split} split of {config.path or config.name!r} has {len(text)} characters; "
                "a split needs two or more: use a longer text or other splits"
            )
    vocabulary = Vocabulary.of("".join(texts.values()))
    end = _document_end(config, vocabulary)
    encoded = {split: Corpus(vocabulary.encode(text), end) for split, text in texts.items()}
    return DataSet(
        name=config.path or config.name,
        readers={split: functools.partial(encoded.__getitem__, split) for split in encoded},
        sizes={"vocab_size": len(vocabulary)},
        vocabulary=vocabulary,
        sequence_length=config.sequence_length,
        overlap=config.overlap,
    )


def _table_data_set(config: DataConfig, tables: dict[str, Table]) -> DataSet:
    """Texts with labels, tags or targets, as token numbers."""
    for name in ("unit", "target_unit"):
        check_choice(f"data.{name}", getattr(config, name), UNITS)
    encoded = encode_tables(
        tables,
        unit=config.unit,
        target_unit=config.target_unit,
        alphabet=config.alphabet,
        min_count=config.min_count,
        max_length=config.max_length,
        buckets=config.buckets,
    )
    return DataSet(
        name=config.path or config.name,
        readers={split: functools.partial(encoded.splits.get, split) for split in encoded.splits},
        sizes=encoded.sizes,
        class_names=encoded.class_names,
        vocabulary=encoded.vocabulary,
        target_vocabulary=encoded.target_vocabulary,
    )


def _document_end(config: DataConfig, vocabulary: Vocabulary) -> int | None:
    if not config.document_end:
        return None
    if (
        not isinstance(config.document_end, str)
        or len(config.document_end) != 1
        or config.document_end not in vocabulary.tokens
    ):
        raise UserError(
            "data.document_end expects one character that occurs in the text, got "
            f"{config.document_end!r}"
        )
    return int(vocabulary.encode(config.document_end)[0])


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text as token numbers, `int32[N]`; after every token `document_end` a new document."""

    tokens: np.ndarray
    document_end: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def begins(self, positions: np.ndarray) -> np.ndarray:
        """`bool`, where a document begins."""
        first = positions == 0
        if self.document_end is None:
            return first
        return first | (self.tokens[positions - 1] == self.document_end)

    def fingerprint(self) -> int:
        return zlib.crc32(self.tokens.tobytes())

"""Batches as pure functions of the step: resume needs a number, not an iterator's state.

The order of examples is a permutation drawn from (seed, epoch), the same on every process; a
process takes its own consecutive part of every global batch. So any number of processes sees the
same sequence of global batches, and a run may continue on another number.
"""

import functools
import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from nn_lib.checks import UserError
from nn_lib.data.examples import StreamedExamples
from nn_lib.data.sequences import Sequences, sequence_evaluation
from nn_lib.data.sources import Corpus, DataSet

Batch = dict[str, np.ndarray]


class Batches(Protocol):
    """The training batches of a run; `at(step)` is this process's part of batch number `step`."""

    batch_size: int
    continuous: bool

    def at(self, step: int) -> Batch: ...


def training_batches(
    data: DataSet, batch_size: int, seed: int, process: tuple[int, int] = (0, 1)
) -> Batches:
    """The endless training batches of a data set.

    Args:
      batch_size: of the global batch; 0 means the whole training split.
      process: (index, count) of this process.

    Raises:
      UserError: a batch larger than the data, or one that the processes cannot share evenly.
    """
    split = data.split("train")
    if isinstance(split, Corpus):
        if not batch_size:
            raise UserError("batch_size 0 has no meaning for text; set the number of streams")
        return CorpusBatches(split, batch_size, data.sequence_length, data.overlap, process)
    size = batch_size or len(split)
    if size > len(split):
        raise UserError(
            f"batch_size {size} is larger than the {len(split)} training examples of "
            f"{data.name!r}; 0 takes them all"
        )
    if isinstance(split, StreamedExamples):
        return StreamedBatches(split, size, seed, process)
    kind = SequenceBatches if isinstance(split, Sequences) else ExampleBatches
    return kind(split, size, seed, process)


class ExampleBatches:
    """Batches of shuffled examples; an epoch holds each of them once, batches may straddle two."""

    continuous = False

    def __init__(self, examples, batch_size: int, seed: int, process: tuple[int, int] = (0, 1)):
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.part = _part(batch_size, process)

    def at(self, step: int) -> Batch:
        """`inputs [b, ...]`, `labels int[b]`, `mask bool[b]`, all true."""
        positions = step * self.batch_size + self.part
        batch = self.examples.gather(self._indices(positions))
        return {**batch, "mask": np.ones(len(positions), bool)}

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        """The examples at consecutive positions of the endless sequence of epochs."""
        epochs, places = np.divmod(positions, len(self.examples))
        indices = np.empty_like(places)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            indices[here] = self._order(epoch)[places[here]]
        return indices

    def _order(self, epoch: int) -> np.ndarray:
        return epoch_order(len(self.examples), self.seed, epoch)


class StreamedBatches(ExampleBatches):
    """As `ExampleBatches`, of what is read and decoded for each batch, piece by piece.

    What is drawn for an example depends on the seed and its position in the sequence of epochs
    alone, so any number of processes and workers reads the same.
    """

    def at(self, step: int) -> Batch:
        return next(self.ahead(step, step + 1, workers=None))

    def ahead(self, start: int, stop: int, workers: int | None) -> Iterator[Batch]:
        """The batches from number `start` to `stop`, as `StreamedExamples.batches` reads them."""
        for batch in self.examples.batches(self._piece, len(self.part), start, stop, workers):
            yield {**batch, "mask": np.ones(len(self.part), bool)}

    def _piece(self, step: int, rows: slice):
        positions = step * self.batch_size + self.part[rows]
        # The third number sets these draws apart from those of the order of epochs.
        seeds = [(self.seed, int(position), 1) for position in positions]
        return self.examples.read(self._indices(positions), seeds)


class SequenceBatches(ExampleBatches):
    """As `ExampleBatches`, of texts of like lengths, padded to one of a few lengths."""

    def at(self, step: int) -> Batch:
        """What `Sequences.gather` returns, and `mask bool[b]`, all true."""
        indices = self._indices(step * self.batch_size + np.arange(self.batch_size))
        batch = self.examples.gather(indices[self.part], beside=indices)
        return {**batch, "mask": np.ones(len(self.part), bool)}

    def _order(self, epoch: int) -> np.ndarray:
        return sequence_order(self.examples, self.seed, epoch, self.batch_size)


class CorpusBatches:
    """Windows `[B, T]` of B contiguous streams: stream b's windows follow each other in the text.

    When the streams are used up they start over, with `reset` true at the first character. The
    few characters that do not fill a last window are left out.

    With an overlap, a window begins so many characters earlier, and only the later ones have
    targets; what would lie before the stream is masked.
    """

    continuous = True

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        sequence_length: int,
        overlap: int = 0,
        process: tuple[int, int] = (0, 1),
    ):
        self.batch_size, self.length, self.overlap = batch_size, sequence_length, overlap
        stream = len(corpus) // batch_size
        # As min-char-rnn, which turns back one character before a text's last window would fit.
        self.windows = max((stream - 2) // sequence_length, 1)
        if stream <= sequence_length:
            raise UserError(
                f"the corpus of {len(corpus)} characters is shorter than one batch of {batch_size} "
                f"sequences of {sequence_length} + 1; use a smaller batch_size or "
                "data.sequence_length"
            )
        self.corpus = corpus
        self.starts = _part(batch_size, process)[:, None] * stream

    def at(self, step: int) -> Batch:
        """`targets` `int[b, T]`; `inputs` `int`, `reset`, `mask` `bool`, `[b, overlap + T]`."""
        start = step % self.windows * self.length
        offsets = np.arange(start - self.overlap, start + self.length)
        at = self.starts + np.maximum(offsets, 0)
        return {
            "inputs": self.corpus.tokens[at],
            "targets": self.corpus.tokens[at[:, self.overlap :] + 1],
            "reset": (offsets == 0) | ((offsets > 0) & self.corpus.begins(at)),
            "mask": np.broadcast_to(offsets >= 0, at.shape),
        }


def evaluation_batches(
    data: DataSet,
    split_name: str,
    batch_size: int,
    process: tuple[int, int] = (0, 1),
    multiple: int = 1,
) -> Iterator[Batch]:
    """Batches of one shape that hold every example (or every next character) exactly once.

    The last batch is padded, with `mask` false there.

    Args:
      multiple: what the size of a batch is rounded up to, for the devices that share it.
    """
    multiple = math.lcm(multiple, process[1])
    split = data.split(split_name)
    if isinstance(split, Corpus):
        yield from _corpus_evaluation(split, batch_size, data.sequence_length, process, multiple)
        return
    size = -(-min(batch_size, len(split)) // multiple) * multiple
    part = _part(size, process)
    if isinstance(split, Sequences):
        yield from sequence_evaluation(split, size, part)
        return
    if isinstance(split, StreamedExamples):
        piece = functools.partial(_evaluation_piece, split, size, part)
        count = -(-len(split) // size)
        yield from split.batches(piece, len(part), 0, count, split.workers)
        return
    for start in range(0, len(split), size):
        indices, inside = _within(split, start + part)
        batch = split.gather(indices)
        yield {**batch, "mask": batch["mask"] & inside}


def _evaluation_piece(split: StreamedExamples, size: int, part: np.ndarray, number: int, rows):
    indices, inside = _within(split, number * size + part[rows])
    batch, bad = split.read(indices)
    return {**batch, "mask": batch["mask"] & inside}, bad


def _within(split, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the split, and which of them are no padding."""
    inside = positions < len(split)
    return np.where(inside, positions, 0), inside


def prefetch(batches: Batches, start: int, stop: int) -> Iterator[Batch]:
    """`batches.at(step)` for the steps of a run; read ahead where reading takes time."""
    if isinstance(batches, StreamedBatches):
        return batches.ahead(start, stop, batches.examples.workers)
    return map(batches.at, range(start, stop))


@functools.lru_cache(maxsize=4)
def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch, a permutation drawn from (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(size)


@functools.lru_cache(maxsize=4)
def sequence_order(split: Sequences, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """As `epoch_order`, with texts of like lengths side by side."""
    return split.epoch_order(seed, epoch, batch_size)


def _part(batch_size: int, process: tuple[int, int]) -> np.ndarray:
    """The rows of a global batch that belong to a process: consecutive ones."""
    index, count = process
    if batch_size % count:
        raise UserError(
            f"batch_size {batch_size} does not divide among {count} processes; choose a multiple"
        )
    local = batch_size // count
    return np.arange(index * local, (index + 1) * local)


def _corpus_evaluation(
    corpus: Corpus, batch_size: int, length: int, process: tuple[int, int], multiple: int
) -> Iterator[Batch]:
    """Contiguous streams as in training; those of unequal length are padded at their ends.

    Further streams, all padding, fill the batch up; so the text is cut alike on any devices.
    """
    pairs = len(corpus) - 1
    if pairs < 1:
        raise UserError("a split of the corpus holds fewer than two characters; give it more text")
    streams = min(batch_size, pairs)
    stream = -(-pairs // streams)
    rows = _part(-(-streams // multiple) * multiple, process)[:, None]
    for start in range(0, stream, length):
        offset = start + np.arange(length)
        at = rows * stream + offset
        mask = (at < pairs) & (offset < stream) & (rows < streams)
        at = np.where(mask, at, 0)
        yield {
            "inputs": corpus.tokens[at],
            "targets": corpus.tokens[at + 1],
            "reset": (offset == 0) | (mask & corpus.begins(at)),
            "mask": mask,
        }

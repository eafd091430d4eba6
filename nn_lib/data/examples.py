"""Labelled examples: one split, decoded to memory once or decoded on request."""

import copy
import dataclasses
import functools
import io
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from nn_lib.checks import UserError, first_line
from nn_lib.data import images, tfds_source
from nn_lib.data.bad_examples import BadExample, BadExamples, of_the_system
from nn_lib.data.workers import TOO_MANY_FILES, allow_open_files, read_ahead, too_many_files

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
PIECE = 32  # examples that are read at once
PIECE_IN_MEMORY = 128  # quickest for MNIST
PAUSES = (0.1, 1.0, 5.0)  # seconds, before what the operating system failed to do is tried again

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split in memory: `inputs [N, ...]`, `labels int[N]` (or `[N, T]`) or `float[N, ...]`.

    Attributes:
      bad: numbers of the examples that could not be decoded; the next good one stands in for each.
    """

    inputs: np.ndarray
    labels: np.ndarray
    bad: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices` as one batch; `mask` is false where another stands in."""
        mask = ~np.isin(indices, self.bad)
        return {"inputs": self.inputs[indices], "labels": self.labels[indices], "mask": mask}

    def fingerprint(self) -> int:
        """A checksum of the number of examples and of some hundred of them."""
        return _fingerprint(self)


@dataclasses.dataclass(frozen=True)
class StreamedExamples:
    """A split too large for memory: `read` decodes.

    For an example that cannot be decoded the next one that can stands in, the same whoever reads.
    A file that cannot be read is another matter: that is tried again, and then ends the run.

    Attributes:
      source: of TFDS, with images still encoded.
      split: the expression that it was read by.
      channels: of an encoded image; 0 where inputs are no images.
      classes: whether labels are classes, int32, or numbers, float32.
      image_size: what every image is resized and cropped to; None leaves them.
      shorter_side: what it is resized to before the middle is taken; None means `image_size`.
      crop: `(picture, size, rng) -> uint8[size, size, C]` for training instead; None takes the
        middle.
      workers: processes that read ahead, as in `read_ahead`.
      bad: what cannot be decoded, of all splits.
    """

    source: Any
    split: str
    keys: tuple[str, str]
    channels: int
    bad: BadExamples
    classes: bool = True
    image_size: int | None = None
    shorter_side: int | None = None
    crop: Callable | None = None
    workers: int = 0

    def __len__(self) -> int:
        return len(self.source)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """As `Examples.gather`, read now.

        Raises:
          UserError: more examples than the limit cannot be decoded, or a file cannot be read.
        """
        batch, bad = self.read(indices)
        self.bad.add(bad)
        return batch

    def read(
        self, indices: np.ndarray, seeds: Sequence[tuple[int, ...]] | None = None
    ) -> tuple[dict[str, np.ndarray], tuple[BadExample, ...]]:
        """The batch, and the examples that cannot be decoded.

        Args:
          seeds: one for every example, of its random crop; None takes the middle.
        """
        rows, labels, bad = [], [], []
        good = np.ones(len(indices), bool)
        for place, (index, record) in enumerate(zip(indices, self._records(indices))):
            picture, label = self._decode(index, record)
            for _ in range(min(self.bad.limit, len(self) - 1)):
                if not isinstance(picture, Exception):
                    break
                good[place] = False
                bad.append(self._describe(index, record, picture))
                index = (index + 1) % len(self)
                (record,) = self._records([index])
                picture, label = self._decode(index, record)
            if isinstance(picture, Exception):
                raise self.bad.too_many(self._describe(index, record, picture))
            rng = None if seeds is None else np.random.default_rng(seeds[place])
            rows.append(self._cut(picture, rng))
            labels.append(label)
        dtype = np.int32 if self.classes else np.float32
        batch = {"inputs": np.stack(rows), "labels": np.array(labels, dtype), "mask": good}
        return batch, tuple(bad)

    def batches(
        self,
        piece: Callable,
        size: int,
        start: int,
        stop: int,
        workers: int | None,
        piece_size: int = PIECE,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches put together from pieces that are read ahead, each as it comes.

        Args:
          piece: `(batch number, slice of its rows) -> ` what `read` returns; it may be pickled.
          size: rows of a batch.
          start: number of the first batch.
          stop: number after the last.
          workers: as in `read_ahead`; None reads nothing ahead.
          piece_size: rows of a piece.

        Raises:
          UserError: more examples than the limit cannot be decoded, or a file cannot be read.
        """
        count = -(-size // piece_size)
        read = functools.partial(_read_piece, piece, count, piece_size)
        numbers = start * count, stop * count
        pieces: Iterator = map(read, range(*numbers))
        if workers is not None:
            pieces = read_ahead(read, *numbers, workers)
        for _ in range(start, stop):
            batch: dict[str, np.ndarray] = {}
            for first in range(0, size, piece_size):
                part, bad = next(pieces)
                for key, rows in part.items():
                    if not first:
                        batch[key] = np.empty((size, *rows.shape[1:]), rows.dtype)
                    batch[key][first : first + len(rows)] = rows
                del part, rows  # a worker's memory is free again once it is not looked at
                self.bad.add(bad)
            yield batch

    def fingerprint(self) -> int:
        """As `Examples.fingerprint`; of the encoded images where each is cut differently."""
        apart = self._apart()
        if self.crop is None:
            return _fingerprint(apart)
        value = zlib.crc32(str(len(self)).encode())
        for record in apart._records(_some(self)):
            if isinstance(record, dict):
                value = zlib.crc32(repr([record[key] for key in self.keys]).encode(), value)
        return value

    def _apart(self) -> "StreamedExamples":
        """The same examples, whose files are closed again when it is no longer looked at."""
        source = copy.copy(self.source)
        source.data_source = copy.copy(source.data_source)  # which leaves open files behind
        return dataclasses.replace(self, source=source)

    def _records(self, indices) -> list[dict | Exception]:
        """Each example as TFDS has it, or what kept it from being read."""
        numbers = [int(index) for index in indices]
        try:
            return self._patiently(lambda: self.source.__getitems__(numbers), numbers)
        except UserError:
            raise
        except Exception as error:  # a damaged file has many ways to say so
            if len(numbers) == 1:
                return [error]
            return [self._records([number])[0] for number in numbers]

    def _patiently(self, read: Callable[[], Found], numbers: list[int]) -> Found:
        """`read()`, again after a while where the operating system fails.

        Raises:
          UserError: it fails again and again.
        """
        for pause in (*PAUSES, None):
            try:
                return read()
            except Exception as error:
                if any(os.strerror(number) in str(error) for number in TOO_MANY_FILES):
                    raise too_many_files(error) from error
                if not of_the_system(error):
                    raise
                if pause is None:
                    raise self._unreadable(error, numbers) from error
            time.sleep(pause)
            # A reader that has failed once may not recover.
            self.source.data_source = copy.copy(self.source.data_source)
        raise AssertionError("the last attempt returns or raises")

    def _unreadable(self, error: Exception, numbers: list[int]) -> UserError:
        few = f"example {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} examples"
        return UserError(
            f"data set {self.bad.name!r}: {few} of {self.split} cannot be read: "
            f"{first_line(error)}; once the files can be read, the same command continues from "
            "the last checkpoint"
        )

    def _decode(self, index: int, record: dict | Exception):
        """(picture or array, label); the exception instead of the picture where it fails."""
        if isinstance(record, Exception):
            return record, None
        value, label = (record[key] for key in self.keys)
        if not self.channels:
            return value, label
        try:
            return self._patiently(lambda: self._picture(value), [int(index)]), label
        except UserError:
            raise
        except Exception as error:  # decoders have many ways to say that bytes are wrong
            return error, label

    def _picture(self, content: bytes) -> Image.Image:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            mode = MODES[self.channels]
            return picture if picture.mode == mode else picture.convert(mode)

    def _cut(self, picture, rng: np.random.Generator | None) -> np.ndarray:
        if not self.channels:
            return picture
        if not self.image_size:
            return np.asarray(picture).reshape(picture.height, picture.width, self.channels)
        if rng is not None and self.crop is not None:
            return self.crop(picture, self.image_size, rng)
        return images.resize_and_crop(picture, self.image_size, shorter_side=self.shorter_side)

    def _describe(self, index, record: dict | Exception, error: Exception) -> BadExample:
        name = record.get("file_name", b"") if isinstance(record, dict) else b""
        return BadExample(
            self.split, int(index), name.decode("utf-8", "replace"), first_line(error)
        )


def read_examples(
    builder, expression: str, keys, bad: BadExamples, config, crop: Callable | None = None
):
    """The split `expression` of a prepared TFDS builder, in memory where it fits.

    Args:
      bad: counts what cannot be decoded.
      config: a `DataConfig`.
      crop: of this split, which then stays out of memory, since it is cut differently each time.

    Raises:
      UserError: inputs of varying shape, which cannot be batched; too many that cannot be decoded.
    """
    feature = builder.info.features[keys[0]]
    shape, size = feature.shape, config.image_size
    encoded = isinstance(feature, tfds.features.Image) and np.dtype(feature.np_dtype) == np.uint8
    if size:
        if not encoded:
            raise UserError(
                f"data.image_size {size} is for images, and {builder.info.full_name!r} has "
                f"inputs of shape {shape}"
            )
        shape = (size, size, shape[-1])
    elif config.crop is not None or config.shorter_side:
        raise UserError(
            "data.crop and data.shorter_side need data.image_size, the pixels that the network "
            "takes"
        )
    if None in shape:
        raise UserError(
            f"data set {builder.info.full_name!r} has inputs of varying shape {shape}; batches "
            "need one shape: set data.image_size to the pixels that the network takes"
        )
    allow_open_files()
    decoders = {keys[0]: tfds.decode.SkipDecoding()} if encoded else None
    streamed = StreamedExamples(
        source=builder.as_data_source(split=expression, decoders=decoders),
        split=expression,
        keys=(keys[0], keys[1]),
        channels=shape[-1] if encoded else 0,
        bad=bad,
        classes=tfds_source.classes(builder.info.features[keys[1]]) is not None,
        image_size=size,
        shorter_side=config.shorter_side,
        crop=crop,
        workers=config.workers,
    )
    space = len(streamed) * int(np.prod(shape)) * np.dtype(feature.np_dtype).itemsize
    if crop is not None or space > config.in_memory_limit:
        return streamed
    return _in_memory(streamed)


def _in_memory(streamed: StreamedExamples) -> Examples:
    size = len(streamed)
    workers = streamed.workers or None
    piece = functools.partial(_all_of, streamed)
    (batch,) = streamed.batches(piece, size, 0, 1, workers, piece_size=PIECE_IN_MEMORY)
    bad = tuple(np.flatnonzero(~batch["mask"]).tolist())
    return Examples(batch["inputs"], batch["labels"], bad)


def _all_of(streamed: StreamedExamples, number: int, rows: slice):
    del number
    return streamed.read(np.arange(rows.start, min(rows.stop, len(streamed))))


def _read_piece(piece: Callable, count: int, size: int, number: int):
    batch, place = divmod(number, count)
    return piece(batch, slice(place * size, (place + 1) * size))


def _fingerprint(split) -> int:
    batch = split.gather(_some(split))
    value = zlib.crc32(str(len(split)).encode())
    for key in ("inputs", "labels"):
        value = zlib.crc32(np.ascontiguousarray(batch[key]).tobytes(), value)
    return value


def _some(split) -> np.ndarray:
    return np.unique(np.linspace(0, len(split) - 1, 128).astype(int))

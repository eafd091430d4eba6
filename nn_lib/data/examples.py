"""Labelled examples: one split, decoded to memory once or decoded on request."""

import dataclasses
import zlib
from typing import Any

import numpy as np

from nn_lib.checks import UserError
from nn_lib.data import images, tfds_source


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split in memory: `inputs [N, ...]`, `labels int[N]` (or `[N, T]`) or `float[N, ...]`."""

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices` as one batch."""
        return {"inputs": self.inputs[indices], "labels": self.labels[indices]}

    def fingerprint(self) -> int:
        """A checksum of the number of examples and of some hundred of them."""
        return _fingerprint(self)


@dataclasses.dataclass(frozen=True)
class StreamedExamples:
    """A split too large for memory: `gather` reads and decodes.

    Attributes:
      classes: whether labels are classes, int32, or numbers, float32.
      image_size: what every image is resized and cropped to; None leaves them.
    """

    source: Any
    keys: tuple[str, str]
    classes: bool = True
    image_size: int | None = None

    def __len__(self) -> int:
        return len(self.source)

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        key, label = self.keys
        examples = self.source.__getitems__([int(index) for index in indices])
        inputs = [example[key] for example in examples]
        if self.image_size:
            inputs = [images.resize_and_crop(image, self.image_size) for image in inputs]
        return {
            "inputs": np.stack(inputs),
            "labels": np.array(
                [example[label] for example in examples], np.int32 if self.classes else np.float32
            ),
        }

    def fingerprint(self) -> int:
        """As `Examples.fingerprint`; reading them all would take too long."""
        return _fingerprint(self)


def read_examples(
    builder, expression: str, keys, in_memory_limit: int, image_size: int | None = None
):
    """The split `expression` of a prepared TFDS builder, in memory where it fits.

    Raises:
      UserError: inputs of varying shape, which cannot be batched.
    """
    source = builder.as_data_source(split=expression)
    feature = builder.info.features[keys[0]]
    shape = feature.shape
    if image_size:
        if len(shape) != 3 or np.dtype(feature.np_dtype) != np.uint8:
            raise UserError(
                f"data.image_size {image_size} is for images, and {builder.info.full_name!r} has "
                f"inputs of shape {shape}"
            )
        shape = (image_size, image_size, shape[-1])
    if None in shape:
        raise UserError(
            f"data set {builder.info.full_name!r} has inputs of varying shape {shape}; batches "
            "need one shape: set data.image_size to the pixels that the network takes"
        )
    classes = tfds_source.classes(builder.info.features[keys[1]]) is not None
    streamed = StreamedExamples(source, tuple(keys), classes, image_size)
    size = len(source) * int(np.prod(shape)) * np.dtype(feature.np_dtype).itemsize
    if size > in_memory_limit:
        return streamed
    parts = [
        streamed.gather(np.arange(start, min(start + 1024, len(source))))
        for start in range(0, len(source), 1024)
    ]
    return Examples(
        inputs=np.concatenate([part["inputs"] for part in parts]),
        labels=np.concatenate([part["labels"] for part in parts]),
    )


def _fingerprint(split) -> int:
    places = np.unique(np.linspace(0, len(split) - 1, 128).astype(int))
    batch = split.gather(places)
    value = zlib.crc32(str(len(split)).encode())
    for key in ("inputs", "labels"):
        value = zlib.crc32(np.ascontiguousarray(batch[key]).tobytes(), value)
    return value

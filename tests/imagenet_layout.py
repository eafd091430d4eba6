"""Small sets of generated photographs in the layouts of TFDS's `imagenette` and `imagenet2012`."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIZES = {"train": 24, "validation": 10}


def prepare(name: str, folder, *, sizes=SIZES, broken=(), sides=(30, 70), shards=None) -> str:
    """Writes the set with TFDS's own features and returns the folder.

    Args:
      broken: (split, number) of pictures that are cut off in the middle of their bytes.
      sides: the range of heights and widths in pixels.
      shards: files of each split; None leaves it to TFDS.
    """
    original = tfds.builder_cls(name)

    class Small(original, skip_registration=True):
        pkg_dir_path = original.pkg_dir_path

        def _split_generators(self, dl_manager):
            return {split: self._pictures(split, count) for split, count in sizes.items()}

        def _pictures(self, split, count):
            for number in range(count):
                file = jpeg(number, sides)
                if (split, number) in broken:
                    file = file[: len(file) // 2]
                example = {"image": io.BytesIO(file), "label": number % 4}
                if "file_name" in self.info.features:
                    example["file_name"] = file_name(split, number)
                yield f"{number:06}", example

    Small.name = name
    builder = Small(data_dir=folder, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
    return str(folder)


def file_name(split: str, number: int) -> str:
    return f"{split}_{number:05}.JPEG"


def jpeg(number: int, sides=(30, 70)) -> bytes:
    """A picture whose colour and direction of stripes tell its class, number % 4."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(*sides, 2, endpoint=True)
    picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    stripes = (np.arange(height)[:, None] if number % 2 else np.arange(width)[None]) // 6 % 2 == 0
    picture[..., 0 if number % 4 < 2 else 2] += np.where(stripes, 180, 0).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=90)
    return file.getvalue()

"""`digits`: scikit-learn's 1,797 handwritten digits of 8x8 pixels as a TFDS data set."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 digits, intensities 0 to 16 stored as 0 to 240, split 1,257/180/360 at random.

    Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI repository (the test
    part, which scikit-learn carries). It has no official split; this one is drawn once, by seed 0.
    """

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = (("train", 0, 1257), ("validation", 1257, 1437), ("test", 1437, 1797))

    def _info(self):
        return self.dataset_info_from_configs(
            description="Handwritten digits of 8x8 pixels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        order = np.random.default_rng(0).permutation(1797)
        return {name: self._generate_examples(order[a:b]) for name, a, b in self.SPLITS}

    def _generate_examples(self, indices):
        from sklearn.datasets import load_digits

        digits = load_digits()
        for index in indices:
            pixels = (digits.images[index] * 15).astype(np.uint8)  # 16 -> 240 fits a byte
            yield int(index), {"image": _png(pixels), "label": int(digits.target[index])}


def _png(pixels: np.ndarray) -> io.BytesIO:
    """An encoded PNG, since encoding an array is the one thing TFDS does by TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    file.seek(0)
    return file

"""A TFDS data set of generated pictures: coloured bars, told apart by colour and direction."""

import io
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class GeneratedImages(tfds.core.GeneratorBasedBuilder):
    """Four classes: red or blue bars, across or down, on noise; `sizes` as CIFAR or varying."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="small", description="32x32 pixels"),
        tfds.core.BuilderConfig(name="varying", description="40 to 60 pixels on a side"),
    ]
    SPLITS: ClassVar = {"train": 256, "validation": 64, "test": 64}

    def _info(self):
        side = 32 if self.builder_config.name == "small" else None
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3)),
                    "label": tfds.features.ClassLabel(num_classes=4),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        splits = enumerate(self.SPLITS.items())
        return {name: self._generate_examples(seed, count) for seed, (name, count) in splits}

    def _generate_examples(self, seed, count):
        rng = np.random.default_rng(seed)
        for index in range(count):
            varying = self.builder_config.name == "varying"
            sides = rng.integers(40, 61, 2) if varying else (32, 32)
            picture = rng.integers(0, 90, (*sides, 3), dtype=np.uint8)
            label = index % 4
            place = int(rng.integers(8, 18))
            bar = picture[place : place + 6] if label % 2 else picture[:, place : place + 6]
            bar[..., 0 if label < 2 else 2] = 240
            file = io.BytesIO()
            Image.fromarray(picture).save(file, format="PNG")
            file.seek(0)
            yield index, {"image": file, "label": label}

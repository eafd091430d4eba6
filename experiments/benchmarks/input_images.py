"""Generated data sets in the shapes of MNIST, CIFAR and ImageNet, for `input_pipeline`."""

import io
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

NAME = "pipeline_images"
# height, width, channels, format, images
SHAPES = {
    "mnist": (28, 28, 1, "PNG", 10_000),
    "cifar": (32, 32, 3, "PNG", 10_000),
    "imagenet": (375, 500, 3, "JPEG", 512),
}


class PipelineImages(tfds.core.GeneratorBasedBuilder):
    """Smooth random colours with noise; a JPEG has about 110 kB, as ImageNet's have."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=name) for name in SHAPES]

    def _info(self):
        channels, form = SHAPES[self.builder_config.name][2:4]
        shape = (None, None, channels) if form == "JPEG" else SHAPES[self.builder_config.name][:3]
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape, encoding_format=form.lower()),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        height, width, channels, form, count = SHAPES[self.builder_config.name]
        rng = np.random.default_rng(0)
        for number in range(count):
            coarse = rng.integers(0, 256, (-(-height // 25), -(-width // 25), 3), dtype=np.uint8)
            smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            noise = rng.normal(0, 22, (height, width, 3))
            picture = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
            file = io.BytesIO()
            image = Image.fromarray(picture if channels == 3 else picture[..., 0])
            image.save(file, format=form, quality=90)
            file.seek(0)
            yield number, {"image": file, "label": number % 10}


def prepare(folder: str) -> dict[str, int]:
    """Builds the three sets; the bytes that an encoded image has in each."""
    tfds.disable_progress_bar()
    sizes = {}
    for name, shape in SHAPES.items():
        builder = PipelineImages(data_dir=folder, config=name, file_format="array_record")
        builder.download_and_prepare()
        sizes[name] = builder.info.splits["train"].num_bytes // shape[-1]
    return sizes

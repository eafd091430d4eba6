"""`wave` and `rings`: a regression on a line and two classes in a plane, to look at."""

import numpy as np
import tensorflow_datasets as tfds

SPLITS = {"train": 200, "validation": 100, "test": 200}


class Wave(tfds.core.GeneratorBasedBuilder):
    """y = x / 2 + sin(3 x) + noise of 0.1, x uniform on [-3, 3]."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            description="A sine on a slope.",
            features=tfds.features.FeaturesDict(
                {
                    "x": tfds.features.Tensor(shape=(1,), dtype=np.float32),
                    "y": tfds.features.Tensor(shape=(1,), dtype=np.float32),
                }
            ),
            supervised_keys=("x", "y"),
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in SPLITS}

    def _generate_examples(self, split):
        rng = _random(split)
        for index in range(SPLITS[split]):
            x = rng.uniform(-3, 3)
            y = x / 2 + np.sin(3 * x) + 0.1 * rng.normal()
            yield index, {"x": np.float32([x]), "y": np.float32([y])}


class Rings(tfds.core.GeneratorBasedBuilder):
    """Class 0 within radius 1, class 1 between the radii 1.3 and 2.3, as many of each."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            description="A disc and a ring around it.",
            features=tfds.features.FeaturesDict(
                {
                    "point": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                    "label": tfds.features.ClassLabel(names=["disc", "ring"]),
                }
            ),
            supervised_keys=("point", "label"),
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in SPLITS}

    def _generate_examples(self, split):
        rng = _random(split)
        for index in range(SPLITS[split]):
            label = index % 2
            near, far = ((0.0, 1.0), (1.3, 2.3))[label]
            radius = np.sqrt(rng.uniform(near**2, far**2))  # uniform in the area
            angle = rng.uniform(0, 2 * np.pi)
            point = radius * np.array([np.cos(angle), np.sin(angle)])
            yield index, {"point": point.astype(np.float32), "label": label}


def _random(split: str) -> np.random.Generator:
    return np.random.default_rng(list(SPLITS).index(split))

"""`addition`: sums of two numbers as texts, `'123+45' -> '168'`."""

import itertools

import numpy as np
import tensorflow_datasets as tfds


class Addition(tfds.core.GeneratorBasedBuilder):
    """Pairs of numbers of up to N digits and their sum; the config is N.

    No pair (in either order) of the validation or test split occurs in training. Zaremba &
    Sutskever 2014, "Learning to execute"; the form with N = 3 is the usual first example of an
    encoder-decoder.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(
        tfds.core.BuilderConfig(name=str(n), description=f"Numbers of up to {n} digits.")
        for n in (3, 2)
    )
    # Of N = 3; with two digits there are fewer pairs.
    SIZES = (("train", 45_000), ("validation", 2_000), ("test", 5_000))

    def _info(self):
        return self.dataset_info_from_configs(
            description="Addition of numbers as text.",
            features=tfds.features.FeaturesDict(
                {"question": tfds.features.Text(), "answer": tfds.features.Text()}
            ),
            supervised_keys=("question", "answer"),
        )

    def _split_generators(self, dl_manager):
        digits = int(self.builder_config.name)
        sizes = [size if digits == 3 else size // 15 for _, size in self.SIZES]
        pairs = iter(distinct_pairs(digits, sum(sizes)))
        return {
            split: self._generate_examples(list(itertools.islice(pairs, size)))
            for (split, _), size in zip(self.SIZES, sizes)
        }

    def _generate_examples(self, pairs):
        for index, (a, b) in enumerate(pairs):
            yield index, {"question": f"{a}+{b}", "answer": str(a + b)}


def distinct_pairs(digits: int, count: int) -> list[tuple[int, int]]:
    """Pairs whose numbers of digits are uniform on 1 to N, none of them twice in either order."""
    rng = np.random.default_rng(0)
    found: dict[tuple[int, int], tuple[int, int]] = {}
    while len(found) < count:
        limits = 10 ** rng.integers(1, digits + 1, 2)
        a, b = (int(n) for n in rng.integers(0, limits))
        found.setdefault((min(a, b), max(a, b)), (a, b))
    return list(found.values())

"""`adding` and `copy_memory`: what must be remembered lies many steps back."""

import numpy as np
import tensorflow_datasets as tfds


def _configs(lengths: tuple[int, ...], what: str) -> list[tfds.core.BuilderConfig]:
    return [tfds.core.BuilderConfig(name=str(n), description=f"{what} {n}.") for n in lengths]


class Adding(tfds.core.GeneratorBasedBuilder):
    """Sequences of (value, mark); the target is the sum of the two values that are marked.

    Values are uniform on [0, 1]; one mark is in the first half of the T steps, one in the second.
    The config is T. Predicting 1 has a mean squared error of 1/6.

    Hochreiter & Schmidhuber 1997, in the form of Le, Jaitly & Hinton 2015.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = _configs((200, 50), "Sequences of length")
    SIZES = (("train", 20_000), ("validation", 1_000), ("test", 2_000))

    def _info(self):
        shape = (int(self.builder_config.name), 2)
        return self.dataset_info_from_configs(
            description="The sum of two marked numbers among many.",
            features=tfds.features.FeaturesDict(
                {
                    "sequence": tfds.features.Tensor(shape=shape, dtype=np.float32),
                    "sum": tfds.features.Tensor(shape=(1,), dtype=np.float32),
                }
            ),
            supervised_keys=("sequence", "sum"),
        )

    def _split_generators(self, dl_manager):
        return {
            name: self._generate_examples(seed, size)
            for seed, (name, size) in enumerate(self.SIZES)
        }

    def _generate_examples(self, seed, size):
        rng = np.random.default_rng(seed)
        length = int(self.builder_config.name)
        for index in range(size):
            sequence = np.zeros((length, 2), np.float32)
            sequence[:, 0] = rng.uniform(size=length)
            marked = [rng.integers(length // 2), rng.integers(length // 2, length)]
            sequence[marked, 1] = 1
            yield index, {"sequence": sequence, "sum": sequence[marked, 0].sum(keepdims=True)}


class CopyMemory(tfds.core.GeneratorBasedBuilder):
    """Ten symbols, a delay, a signal; then the ten symbols are to be repeated in their order.

    Tokens: 0 blank, 1 to 8 the symbols, 9 the signal. The input of T + 20 steps is the symbols,
    T - 1 blanks, the signal and ten blanks more; the labels are T + 10 blanks and the symbols.
    The config is T. Without a memory the best loss is 10 ln(8) / (T + 20) nats a step.

    Hochreiter & Schmidhuber 1997, in the form of Arjovsky, Shah & Bengio 2016.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = _configs((100, 20), "A delay of")
    SIZES = (("train", 10_000), ("validation", 1_000), ("test", 2_000))
    NAMES = ("blank", *"abcdefgh", "signal")

    def _info(self):
        length = int(self.builder_config.name) + 20
        label = tfds.features.ClassLabel(names=list(self.NAMES))
        return self.dataset_info_from_configs(
            description="Repeat ten symbols after a delay.",
            features=tfds.features.FeaturesDict(
                {
                    "tokens": tfds.features.Tensor(shape=(length,), dtype=np.uint8),
                    "labels": tfds.features.Sequence(label, length=length),
                }
            ),
            supervised_keys=("tokens", "labels"),
        )

    def _split_generators(self, dl_manager):
        return {
            name: self._generate_examples(seed, size)
            for seed, (name, size) in enumerate(self.SIZES)
        }

    def _generate_examples(self, seed, size):
        rng = np.random.default_rng(seed)
        length = int(self.builder_config.name) + 20
        for index in range(size):
            symbols = rng.integers(1, 9, 10)
            tokens, labels = np.zeros(length, np.uint8), np.zeros(length, np.int64)
            tokens[:10] = labels[-10:] = symbols
            tokens[-11] = 9
            yield index, {"tokens": tokens, "labels": labels}

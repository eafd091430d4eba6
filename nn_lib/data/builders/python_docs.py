"""`python_docs`, the language reference that every Python carries, and `hello`: corpora."""

import platform

import tensorflow_datasets as tfds

from nn_lib.checks import UserError


class PythonDocs(tfds.core.GeneratorBasedBuilder):
    """The help topics of `pydoc_data.topics` in alphabetical order, cut 90/5/5 by characters.

    Its text differs between Python versions, so each version is a config of its own.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name=platform.python_version(), description="The topics of this Python."
        ),
    )

    def _info(self):
        return self.dataset_info_from_configs(
            description="The Python language reference.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager):
        text = language_reference()
        a, b = len(text) * 90 // 100, len(text) * 95 // 100
        parts = {"train": text[:a], "validation": text[a:b], "test": text[b:]}
        return {name: self._generate_examples(part) for name, part in parts.items()}

    def _generate_examples(self, text):
        yield 0, {"text": text}


class Hello(tfds.core.GeneratorBasedBuilder):
    """The word of the lectures' first language model: four letters, each to predict the next."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            description="hello",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples() for name in ("train", "validation")}

    def _generate_examples(self):
        yield 0, {"text": "hello"}


def language_reference() -> str:
    """Every topic under its name, in the order of the names."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "python_docs needs the module pydoc_data of the standard library, which this Python "
            "lacks; install the full standard library or name a text by --config.data.path="
        ) from error
    return "\n\n".join(f"{name}\n\n{topics[name]}" for name in sorted(topics))

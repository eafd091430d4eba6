"""TFDS builders of the data sets that need no download; importing them registers their names."""

from nn_lib.data.builders.addition import Addition
from nn_lib.data.builders.digits import Digits
from nn_lib.data.builders.memory import Adding, CopyMemory
from nn_lib.data.builders.mnist1d import Mnist1d
from nn_lib.data.builders.python_docs import Hello, PythonDocs
from nn_lib.data.builders.python_tokens import PythonTokens
from nn_lib.data.builders.toys import Rings, Wave
from nn_lib.data.builders.unicode_names import UnicodeNames

EMBEDDED = (
    "adding",
    "addition",
    "copy_memory",
    "digits",
    "hello",
    "mnist1d",
    "python_docs",
    "python_tokens",
    "rings",
    "unicode_names",
    "wave",
)

__all__ = [
    "EMBEDDED",
    "Adding",
    "Addition",
    "CopyMemory",
    "Digits",
    "Hello",
    "Mnist1d",
    "PythonDocs",
    "PythonTokens",
    "Rings",
    "UnicodeNames",
    "Wave",
]

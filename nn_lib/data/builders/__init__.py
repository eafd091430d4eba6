"""TFDS builders of the data sets that need no download; importing them registers their names."""

from nn_lib.data.builders.digits import Digits
from nn_lib.data.builders.memory import Adding, CopyMemory
from nn_lib.data.builders.mnist1d import Mnist1d
from nn_lib.data.builders.python_docs import PythonDocs
from nn_lib.data.builders.toys import Rings, Wave

EMBEDDED = ("adding", "copy_memory", "digits", "mnist1d", "python_docs", "rings", "wave")

__all__ = [
    "EMBEDDED",
    "Adding",
    "CopyMemory",
    "Digits",
    "Mnist1d",
    "PythonDocs",
    "Rings",
    "Wave",
]

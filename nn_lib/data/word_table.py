"""The lecture's table of nine words by three features, whose arithmetic means something.

`King - Man + Woman = Queen`. Rows are (femininity, youth, royalty).
"""

import numpy as np

WORD_TABLE = {
    "Man": (0.0, 0.0, 0.0),
    "Woman": (1.0, 0.0, 0.0),
    "Boy": (0.0, 1.0, 0.0),
    "Girl": (1.0, 1.0, 0.0),
    "Prince": (0.0, 1.0, 1.0),
    "Princess": (1.0, 1.0, 1.0),
    "Queen": (1.0, 0.0, 1.0),
    "King": (0.0, 0.0, 1.0),
    "Monarch": (0.5, 0.5, 1.0),
}


def word_vector(word: str) -> np.ndarray:
    """A word's row, `float64[3]`."""
    return np.array(WORD_TABLE[word])


def nearest_word(vector: np.ndarray) -> str:
    """The word whose row is nearest to a vector, by Euclidean distance."""
    return min(WORD_TABLE, key=lambda word: float(np.linalg.norm(vector - word_vector(word))))

"""Back-propagation by hand for a network of two sigmoid layers, as the lectures derive it.

Their slides have two slips, mended here: the order of the factors in the gradient of W1, and the
sign of that of the cross-entropy.
"""

from typing import NamedTuple

import numpy as np


class Gradients(NamedTuple):
    """Of the loss with respect to both matrices."""

    W1: np.ndarray
    W2: np.ndarray


def sigmoid(z: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-z))`."""
    return 1 / (1 + np.exp(-z))


def forward(W1: np.ndarray, W2: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`v = sigma(W1 x)`, `y_hat = sigma(W2 v)` for columns x, with `W1 [k, n]`, `W2 [m, k]`."""
    v = sigmoid(W1 @ x)
    return v, sigmoid(W2 @ v)


def squared_loss(W1: np.ndarray, W2: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """`||y_hat - y||^2`."""
    return float(np.sum((forward(W1, W2, x)[1] - y) ** 2))


def squared_loss_gradients(
    W1: np.ndarray, W2: np.ndarray, x: np.ndarray, y: np.ndarray
) -> Gradients:
    """With R = y_hat - y and . the product by entries:

    ```
    d2 = 2 R . y_hat . (1 - y_hat)          dL/dW2 = d2 v^T
    d1 = (W2^T d2) . v . (1 - v)            dL/dW1 = d1 x^T
    ```
    """
    v, y_hat = forward(W1, W2, x)
    d2 = 2 * (y_hat - y) * y_hat * (1 - y_hat)
    d1 = (W2.T @ d2) * v * (1 - v)
    return Gradients(W1=np.outer(d1, x), W2=np.outer(d2, v))


def cross_entropy(W1: np.ndarray, W2: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """`-sum_j [y_j log y_hat_j + (1 - y_j) log(1 - y_hat_j)]`; the minus covers both terms."""
    y_hat = forward(W1, W2, x)[1]
    return float(-np.sum(y * np.log(y_hat) + (1 - y) * np.log(1 - y_hat)))


def cross_entropy_gradients(
    W1: np.ndarray, W2: np.ndarray, x: np.ndarray, y: np.ndarray
) -> Gradients:
    """`dL/dW2 = (y_hat - y) v^T` (not y - y_hat, which would ascend), then W1 as above."""
    v, y_hat = forward(W1, W2, x)
    d2 = y_hat - y
    d1 = (W2.T @ d2) * v * (1 - v)
    return Gradients(W1=np.outer(d1, x), W2=np.outer(d2, v))


def xor(x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """`relu(x1 + x2) - 2 relu(x1 + x2 - 1)`: two hidden units give 0, 1, 1, 0 exactly."""
    total = np.asarray(x1) + np.asarray(x2)
    return np.maximum(total, 0) - 2 * np.maximum(total - 1, 0)

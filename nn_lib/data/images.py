"""Preparation of image batches inside jit: bytes to the numbers that a network expects.

`resize_and_crop` alone works outside, on single images as they are read.
"""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image


def scale(images: jax.Array) -> jax.Array:
    """Bytes 0..255 to float32 0..1."""
    return images.astype(jnp.float32) / 255


def standardize(
    images: jax.Array,
    *,
    mean: float | tuple[float, ...],
    std: float | tuple[float, ...],
    padding: int = 0,
) -> jax.Array:
    """`(x / 255 - mean) / std` per channel, after padding black pixels on every side."""
    images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return (scale(images) - jnp.asarray(mean)) / jnp.asarray(std)


def rows(images: jax.Array) -> jax.Array:
    """A grey image `[B, H, W, 1]` as a sequence of its rows, `[B, H, W]`, scaled to 0..1."""
    return scale(images)[..., 0]


def stroke_area(batch: dict) -> dict:
    """Adds `area float[B, 1]`, the share of the image that is ink, for byte images on black."""
    images = scale(batch["inputs"])
    area = jnp.mean(images, axis=tuple(range(1, images.ndim)))
    return {**batch, "area": area[:, None]}


def resize_and_crop(image: np.ndarray, size: int) -> np.ndarray:
    """`uint8[H, W, C]` to `[size, size, C]`: shorter side resized to `size`, middle kept."""
    height, width, channels = image.shape
    scale_by = size / min(height, width)
    sides = max(size, round(width * scale_by)), max(size, round(height * scale_by))
    picture = Image.fromarray(image if channels != 1 else image[..., 0])
    resized = np.asarray(picture.resize(sides, Image.Resampling.BILINEAR))
    left, top = (sides[0] - size) // 2, (sides[1] - size) // 2
    return resized[top : top + size, left : left + size].reshape(size, size, channels)

"""Preparation of image batches inside jit: bytes to the numbers that a network expects."""

import jax
import jax.numpy as jnp


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

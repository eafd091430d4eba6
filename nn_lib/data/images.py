"""Preparation of image batches inside jit: bytes to the numbers that a network expects.

`resize_and_crop` and `random_resized_crop` work outside, on single images as they are read.
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


def resize_and_crop(picture, size: int, *, shorter_side: int | None = None) -> np.ndarray:
    """A picture or `uint8[H, W, C]` to `[size, size, C]`: resized, the middle taken.

    Args:
      shorter_side: pixels that it is resized to; None means `size`.
    """
    picture = _as_picture(picture)
    shorter = shorter_side or size
    by = shorter / min(picture.size)
    width, height = (max(shorter, round(side * by)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return _as_array(resized.crop((left, top, left + size, top + size)))


def random_resized_crop(
    picture,
    size: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random rectangle of a picture (or `uint8[H, W, C]`), resized to `[size, size, C]`.

    Its area is a share of the picture's drawn evenly from `area`, width / height is drawn from
    `aspect` evenly in the logarithm. Where ten draws do not fit, it is the largest rectangle in the
    middle whose aspect is allowed. Szegedy et al. 2015; the order of draws is torchvision's.
    """
    picture = _as_picture(picture)
    width, height = picture.size
    for _ in range(10):
        pixels = width * height * rng.uniform(*area)
        ratio = np.exp(rng.uniform(*np.log(aspect)))
        across, down = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        if 0 < across <= width and 0 < down <= height:
            top = int(rng.integers(height - down + 1))
            left = int(rng.integers(width - across + 1))
            break
    else:
        across = min(width, round(height * aspect[1]))
        down = min(height, round(width / aspect[0]))
        left, top = (width - across) // 2, (height - down) // 2
    # Cut before it is resized, so that no pixel outside has a part in it.
    part = picture.crop((left, top, left + across, top + down))
    return _as_array(part.resize((size, size), Image.Resampling.BILINEAR))


def _as_picture(image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _as_array(picture: Image.Image) -> np.ndarray:
    """`uint8[H, W, C]`."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array

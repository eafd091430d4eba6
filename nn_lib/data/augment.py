"""Augmentation of image batches inside jit: pure functions `(key, batch) -> batch`.

A batch is a dict with `inputs [B, H, W, C]` and `labels`; other keys pass through. Settings are
bound by `functools.partial`, several steps are put together by `compose`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nn_lib.checks import UserError


def compose(key: jax.Array, batch: dict, *, steps: tuple[Callable, ...]) -> dict:
    """Applies the steps in order, each with a key of its own."""
    for index, step in enumerate(steps):
        batch = step(jax.random.fold_in(key, index), batch)
    return batch


def pad_and_crop(key: jax.Array, batch: dict, *, padding: int = 4, mode: str = "constant") -> dict:
    """Pads and crops at a random place, so that the content shifts by up to `padding` pixels.

    `mode` as in `jnp.pad`: 'constant' pads by zeros, 'edge' by the colours of the border.
    """
    images = batch["inputs"]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode)
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * padding + 1)

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return {**batch, "inputs": jax.vmap(crop)(padded, corners)}


def crop_and_flip(key: jax.Array, batch: dict, *, padding: int = 4) -> dict:
    """`pad_and_crop`, then `flip`: what CIFAR's networks are trained with."""
    steps = functools.partial(pad_and_crop, padding=padding), flip
    return compose(key, batch, steps=steps)


def flip(key: jax.Array, batch: dict) -> dict:
    """Mirrors every image left to right with probability 1/2."""
    images = batch["inputs"]
    mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return {**batch, "inputs": jnp.where(mirrored, images[:, :, ::-1], images)}


def flip_and_mixup(
    key: jax.Array, batch: dict, *, num_classes: int | None, alpha: float = 0.2
) -> dict:
    """`flip`, then `mixup`: what ImageNet's networks are trained with after a random crop."""
    steps = flip, functools.partial(mixup, num_classes=num_classes, alpha=alpha)
    return compose(key, batch, steps=steps)


def cutout(key: jax.Array, batch: dict, *, size: int = 16) -> dict:
    """Zeros a `size` x `size` square centred at a random pixel, cut at the border.

    DeVries & Taylor 2017.
    """
    images = batch["inputs"]
    count, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (count, 1), 0, height) - size // 2
    left = jax.random.randint(column_key, (count, 1), 0, width) - size // 2
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= top) & (rows < top + size)
    in_columns = (columns >= left) & (columns < left + size)
    hole = in_rows[:, :, None] & in_columns[:, None, :]
    return {**batch, "inputs": jnp.where(hole[..., None], 0, images)}


def mixup(key: jax.Array, batch: dict, *, num_classes: int | None, alpha: float = 0.2) -> dict:
    """Blends every example with the one before it: `lambda x + (1 - lambda) x'`, labels alike.

    Batches are shuffled, so that is any other one; of a batch over several devices it moves one
    example between neighbours, where a permutation would bring all of it to each. One
    lambda ~ Beta(alpha, alpha) a batch; labels become probabilities `[B, num_classes]`, which
    `losses.smoothed_cross_entropy` takes too. In an experiment `num_classes=None` is filled in from
    the data. Zhang et al. 2018.
    """
    if num_classes is None:
        raise UserError("mixup needs num_classes; only in an experiment the data fill it in")
    blend = jax.random.beta(key, alpha, alpha)

    def mix(x):
        return blend * x + (1 - blend) * jnp.roll(x, 1, axis=0)

    labels = jax.nn.one_hot(batch["labels"], num_classes)
    return {**batch, "inputs": mix(batch["inputs"]), "labels": mix(labels)}

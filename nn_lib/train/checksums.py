"""Checksums of arrays where they lie, which tell checkpoints that were damaged."""

import json
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def checksums(leaves: dict[str, Any]) -> dict[str, int]:
    """A 32-bit checksum of the bits of every leaf, computed where the leaf lies.

    Each 32-bit word is mixed with its position by a bijection and the results are added modulo
    2^32: one changed word always shows, others with probability 1 - 2^-32, and the sum is the same
    on any number of devices.
    """
    return {path: int(value) for path, value in jax.device_get(_checksums(leaves)).items()}


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves by dotted path, so that the files do not depend on Optax's or Flax's classes."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in pairs}


def json_checksum(content: dict[str, Any]) -> int:
    """Of a note, whatever the order of its keys."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


@jax.jit
def _checksums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _checksum(leaf) for path, leaf in leaves.items()}


def _checksum(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        words = leaf.astype(jnp.uint32)
    elif leaf.dtype.itemsize >= 4:
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    else:
        unsigned = {1: jnp.uint8, 2: jnp.uint16}[leaf.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, stride in enumerate(_strides(words.shape)):  # not reshaped, so that parts stay put
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride)
    x = words ^ (place * np.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # MurmurHash3's finaliser
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return jnp.sum(x ^ (x >> 16), dtype=jnp.uint32)


def _strides(shape: tuple[int, ...]) -> list[int]:
    """What a step along each axis adds to a position, modulo 2^32."""
    return [math.prod(shape[axis + 1 :]) % 2**32 for axis in range(len(shape))]

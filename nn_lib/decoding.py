"""Decoding: choose tokens one after the other from a model with a carry."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError


def sample(
    key: jax.Array, logits: jax.Array, *, temperature: float | jax.Array = 1.0, top_k: int = 0
) -> jax.Array:
    """Draws tokens from `softmax(logits / temperature)`, `[..., V] -> int[...]`.

    Temperature 0 takes the likeliest token. With `top_k > 0` only the k likeliest can be drawn.
    """
    if top_k and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    greedy = jnp.argmax(logits, axis=-1)
    temperature = jnp.asarray(temperature, logits.dtype)
    drawn = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6), axis=-1)
    return jnp.where(temperature > 0, drawn, greedy)


def stream(
    model,
    variables: Any,
    prompt: np.ndarray,
    length: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    chunk: int = 32,
) -> Iterator[np.ndarray]:
    """Continues `prompt` (`int[N]`, at least one token) by `length` sampled tokens.

    Yields them in chunks as they are ready; within a chunk the loop is one compiled scan. The
    tokens depend on the seed, not on the chunks.

    Raises:
      UserError: a negative temperature, top_k or length, an empty prompt.
    """
    if not len(prompt):
        raise UserError("the prompt is empty; the model needs a token to go on from")
    for name, value in (("temperature", temperature), ("top_k", top_k), ("length", length)):
        if not 0 <= value < math.inf:
            raise UserError(f"{name} must not be negative, got {value}")
    read, write = _compiled(model, top_k, chunk)
    carry = read(variables, jnp.asarray(prompt[None, :-1])) if len(prompt) > 1 else None
    if carry is None:
        carry = model.initialize_carry(1)
    token, key = jnp.asarray(prompt[-1:], jnp.int32), jax.random.key(seed)
    for start in range(0, length, chunk):
        carry, token, tokens = write(variables, carry, token, key, start, temperature)
        yield np.asarray(tokens)[: length - start]


@functools.lru_cache(maxsize=8)
def _compiled(model, top_k: int, chunk: int):
    """The two programs of a model: read a prompt, write a chunk."""

    @jax.jit
    def read(variables, tokens):
        return model.apply(variables, tokens)[1]

    @jax.jit
    def write(variables, carry, token, key, start, temperature):
        def step(state, position):
            carry, token = state
            logits, carry = model.apply(variables, token[:, None], carry=carry)
            noise = jax.random.fold_in(key, position)
            token = sample(noise, logits[:, -1], temperature=temperature, top_k=top_k)
            return (carry, token.astype(jnp.int32)), token[0]

        (carry, token), tokens = jax.lax.scan(step, (carry, token), start + jnp.arange(chunk))
        return carry, token, tokens

    return read, write

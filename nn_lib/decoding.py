"""Decoding: choose tokens one after the other from a model with a carry.

`greedy` and `beam_search` work on `step(carry, token int[N]) -> (carry, logits [N, V])`, one jitted
loop; `stream` samples from a language model, one jitted loop for every chunk of tokens.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError


def sample(
    key: jax.Array,
    logits: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> jax.Array:
    """Draws tokens from `softmax(logits / temperature)`, `[..., V] -> int[...]`.

    Temperature 0 takes the likeliest token. With `top_k > 0` only the k likeliest can be drawn;
    with `top_p < 1` only the fewest of the likeliest whose probabilities reach `top_p` together
    (Holtzman et al. 2020, nucleus sampling), after the temperature.
    """
    if top_k and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    greedy = jnp.argmax(logits, axis=-1)
    temperature = jnp.asarray(temperature, logits.dtype)
    logits = logits / jnp.maximum(temperature, 1e-6)
    if top_p < 1:
        ordered = -jnp.sort(-logits, axis=-1)
        shares = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(shares, axis=-1) - shares
        least = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    drawn = jax.random.categorical(key, logits, axis=-1)
    return jnp.where(temperature > 0, drawn, greedy)


class Decoded(NamedTuple):
    """Sequences that end with `end`, or were cut at the longest length.

    Attributes:
      tokens: `int[..., L]`, `end` from a sequence's end on.
      lengths: `int[...]`, tokens of each, its `end` included.
      log_probabilities: `float[...]`, of each sequence up to and with its `end`.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probabilities: jax.Array


def greedy(
    step: Callable, carry: Any, *, batch_size: int, start: int, end: int, max_length: int
) -> Decoded:
    """The likeliest token in every step, until each of the B sequences has ended."""

    def go_on(state):
        at, _, _, done, *_ = state
        return (at < max_length) & ~jnp.all(done)

    def once(state):
        at, carry, token, done, tokens, lengths, scores = state
        carry, logits = step(carry, token)
        logits = jax.nn.log_softmax(_wide(logits))
        chosen = jnp.where(done, end, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
        gained = jnp.take_along_axis(logits, chosen[:, None], axis=1)[:, 0]
        scores = scores + jnp.where(done, 0, gained)
        lengths = lengths + ~done
        tokens = tokens.at[:, at].set(chosen)
        return at + 1, carry, chosen, done | (chosen == end), tokens, lengths, scores

    token = jnp.full(batch_size, start, jnp.int32)
    tokens = jnp.full((batch_size, max_length), end, jnp.int32)
    zeros = jnp.zeros(batch_size, jnp.int32)
    state = (0, carry, token, zeros > 0, tokens, zeros, _zero_scores(step, carry, token))
    *_, tokens, lengths, scores = jax.lax.while_loop(go_on, once, state)
    return Decoded(tokens, lengths, scores)


def beam_search(
    step: Callable,
    carry: Any,
    *,
    batch_size: int,
    start: int,
    end: int,
    max_length: int,
    beam: int,
    length_penalty: float = 0.0,
) -> Decoded:
    """The `beam` best sequences found by keeping so many of them in every step, the best first.

    They are ranked by `log P / ((5 + length) / 6)^length_penalty` (Wu et al. 2016); 0 ranks by
    probability, which favours short ones. A sequence that has ended stays among the others at its
    own rank.

    Args:
      carry: its leaves are `[B, ...]`, as are those of anything else that `step` takes from it.

    Returns:
      `tokens [B, beam, L]`, `lengths [B, beam]`, `log_probabilities [B, beam]`; where fewer than
      `beam` sequences exist, the others have -inf.
    """

    def rank(scores, lengths):
        return scores / ((5 + lengths) / 6) ** length_penalty

    def spread(leaf):
        return jnp.repeat(leaf, beam, axis=0)

    def go_on(state):
        at, _, _, done, *_ = state
        return (at < max_length) & ~jnp.all(done)

    def once(state):
        at, carry, token, done, tokens, lengths, scores = state
        carry, logits = step(carry, token.reshape(-1))
        logits = jax.nn.log_softmax(_wide(logits)).reshape(batch_size, beam, -1)
        size = logits.shape[-1]
        ended = jnp.where(jnp.arange(size) == end, 0, -jnp.inf)  # goes on as it is, once
        totals = scores[..., None] + jnp.where(done[..., None], ended, logits)
        longer = lengths + ~done
        ranks = rank(totals, longer[..., None]).reshape(batch_size, -1)
        _, best = jax.lax.top_k(ranks, beam)
        parent, chosen = best // size, (best % size).astype(jnp.int32)

        def of_parent(leaf):
            return jnp.take_along_axis(
                leaf, parent.reshape(parent.shape + (1,) * (leaf.ndim - 2)), axis=1
            )

        def reorder(leaf):
            split = leaf.reshape(batch_size, beam, *leaf.shape[1:])
            return of_parent(split).reshape(leaf.shape)

        scores = jnp.take_along_axis(totals.reshape(batch_size, -1), best, axis=1)
        tokens = of_parent(tokens).at[:, :, at].set(chosen)
        done = of_parent(done) | (chosen == end)
        carry = jax.tree.map(reorder, carry)
        return at + 1, carry, chosen, done, tokens, of_parent(longer), scores

    carry = jax.tree.map(spread, carry)
    token = jnp.full((batch_size, beam), start, jnp.int32)
    tokens = jnp.full((batch_size, beam, max_length), end, jnp.int32)
    zeros = jnp.zeros((batch_size, beam), jnp.int32)
    scores = _zero_scores(step, carry, token.reshape(-1)).reshape(batch_size, beam)
    scores = jnp.where(jnp.arange(beam) == 0, scores, -jnp.inf)  # all begin as one
    state = (0, carry, token, zeros > 0, tokens, zeros, scores)
    *_, tokens, lengths, scores = jax.lax.while_loop(go_on, once, state)
    order = jnp.argsort(-rank(scores, lengths), axis=1)
    tokens, lengths, scores = (
        jnp.take_along_axis(leaf, order.reshape(order.shape + (1,) * (leaf.ndim - 2)), axis=1)
        for leaf in (tokens, lengths, scores)
    )
    return Decoded(tokens, lengths, scores)


def transcribe(
    model,
    variables: Any,
    inputs: jax.Array,
    mask: jax.Array,
    *,
    end: int = 1,
    max_length: int,
    beam: int = 1,
    length_penalty: float = 0.0,
) -> Decoded:
    """What an encoder-decoder writes for sources `int[B, S]`, the best first: `[B, beam, L]`.

    The model has `read(inputs, mask) -> (carry, memory)` and `step(carry, token, memory)`, as
    `nn_lib.models.Seq2Seq`. Pure: to be jitted by the caller.
    """
    carry, memory = model.apply(variables, inputs, mask, method="read")
    several = jax.tree.map(lambda leaf: jnp.repeat(leaf, beam, axis=0), memory)

    def step(carry, token):
        return model.apply(variables, carry, token, several, method="step")

    frame = {"batch_size": len(inputs), "start": model.start, "end": end, "max_length": max_length}
    if beam == 1:
        return jax.tree.map(lambda leaf: leaf[:, None], greedy(step, carry, **frame))
    return beam_search(step, carry, beam=beam, length_penalty=length_penalty, **frame)


def log_probabilities(
    model,
    variables: Any,
    inputs: jax.Array,
    mask: jax.Array,
    targets: jax.Array,
    target_mask: jax.Array,
) -> jax.Array:
    """`log P(target | source) = sum_t log P(y_t | y_{<t}, x)` of given targets, `[B]`.

    The scorer of what `transcribe` writes: the whole target is shown at once.
    """
    logits = model.apply(variables, inputs, targets, mask)
    gained = jnp.take_along_axis(jax.nn.log_softmax(_wide(logits)), targets[..., None], axis=-1)
    return jnp.sum(jnp.where(target_mask, gained[..., 0], 0), axis=1)


def _wide(logits: jax.Array) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _zero_scores(step: Callable, carry: Any, token: jax.Array) -> jax.Array:
    """Log probability 0 for every sequence, in the dtype of the logits or float32."""
    logits = jax.eval_shape(step, carry, token)[1]
    return jnp.zeros(token.shape, jnp.promote_types(logits.dtype, jnp.float32))


def stream(
    model,
    variables: Any,
    prompt: np.ndarray,
    length: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    carry: Any = None,
    chunk: int = 32,
) -> Iterator[np.ndarray]:
    """Continues `prompt` (`int[N]`, at least one token) by `length` sampled tokens.

    `carry` is the state before the prompt, of one sequence; None is the model's initial one.

    Yields them in chunks as they are ready; within a chunk the loop is one compiled scan. The
    tokens depend on the seed, not on the chunks.

    Raises:
      UserError: a negative temperature, top_k or length, an empty prompt, a top_p that is no share.
    """
    if not len(prompt):
        raise UserError("the prompt is empty; the model needs a token to go on from")
    for name, value in (("temperature", temperature), ("top_k", top_k), ("length", length)):
        if not 0 <= value < math.inf:
            raise UserError(f"{name} must not be negative, got {value}")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, got {top_p}")
    read, write = _compiled(model, top_k, top_p, chunk)
    if carry is None:
        carry = model.initialize_carry(1)
    if len(prompt) > 1:
        carry = read(variables, jnp.asarray(prompt[None, :-1]), carry)
    token, key = jnp.asarray(prompt[-1:], jnp.int32), jax.random.key(seed)
    for start in range(0, length, chunk):
        carry, token, tokens = write(variables, carry, token, key, start, temperature)
        yield np.asarray(tokens)[: length - start]


@functools.lru_cache(maxsize=8)
def _compiled(model, top_k: int, top_p: float, chunk: int):
    """The two programs of a model: read a prompt, write a chunk."""

    @jax.jit
    def read(variables, tokens, carry):
        return model.apply(variables, tokens, carry=carry)[1]

    @jax.jit
    def write(variables, carry, token, key, start, temperature):
        def step(state, position):
            carry, token = state
            logits, carry = model.apply(variables, token[:, None], carry=carry)
            noise = jax.random.fold_in(key, position)
            options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
            token = sample(noise, logits[:, -1], **options)
            return (carry, token.astype(jnp.int32)), token[0]

        (carry, token), tokens = jax.lax.scan(step, (carry, token), start + jnp.arange(chunk))
        return carry, token, tokens

    return read, write

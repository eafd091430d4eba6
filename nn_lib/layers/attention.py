"""Attention over a memory: scores, a softmax that padding has no part in, a weighted mean."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.dense import Dense
from nn_lib.layers.precision import add_bias


def attention_weights(scores: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """`alpha = softmax(e)` over the last axis, exactly zero where the mask is false.

    Args:
      scores: `e [..., S]`.
      mask: `bool[..., S]`; where a row is all false, alpha is zero.
    """
    if scores.dtype.itemsize < 4:
        return attention_weights(scores.astype(jnp.float32), mask).astype(scores.dtype)
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    # What is masked may be anything, and a row may be masked as a whole: no NaN either way.
    top = jnp.max(jnp.where(mask, scores, -jnp.inf), axis=-1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    exponentials = jnp.where(mask, jnp.exp(jnp.where(mask, scores - top, 0)), 0)
    return exponentials / jnp.maximum(jnp.sum(exponentials, axis=-1, keepdims=True), 1e-30)


def attend(alpha: jax.Array, memory: jax.Array) -> jax.Array:
    """The context `c = sum_s alpha_s a_s`, `([B, S], [B, S, C]) -> [B, C]`."""
    return jnp.einsum("bs,bsc->bc", alpha, memory)


def additive_scores(query: jax.Array, keys: jax.Array, v: jax.Array) -> jax.Array:
    """`e_s = v . tanh(q + k_s)`, `([B, A], [B, S, A], [A]) -> [B, S]`.

    Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
    translate": q = W h, k_s = U a_s.
    """
    return jnp.tanh(add_bias(keys, query[:, None])) @ v


def multiplicative_scores(query: jax.Array, keys: jax.Array) -> jax.Array:
    """`e_s = q . k_s`, `([B, A], [B, S, A]) -> [B, S]`.

    Luong, Pham & Manning 2015, "Effective approaches to attention-based neural machine
    translation": k_s = W a_s in the form 'general', a_s itself in the form 'dot'.
    """
    return jnp.einsum("ba,bsa->bs", query, keys)


class AttentionPooling(nn.Module):
    """A sequence as the mean of its steps that a learned query weighs.

    `u_t = tanh(W h_t + b)`, `alpha = softmax_t(u_t . q)`, output `sum_t alpha_t h_t`;
    `([B, T, F], mask) -> [B, F]`. Yang et al. 2016, "Hierarchical attention networks".
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        u = jnp.tanh(Dense(self.features, dtype=self.dtype)(x))
        scores = Dense(1, use_bias=False, dtype=self.dtype, name="query")(u)[..., 0]
        return attend(attention_weights(scores, mask), x)

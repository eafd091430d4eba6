"""Gradient clipping beyond what Optax ships: per layer, and the lectures' squared-norm rule."""

from collections import defaultdict

import jax
import jax.numpy as jnp
import optax

from nn_lib.optim.paths import path_of


def clip_per_layer(max_norm: float) -> optax.GradientTransformation:
    """Scales the gradient of every layer so that its norm is at most `max_norm`.

    A layer is what has one parent in the tree of parameters: a kernel and its bias have one norm.
    """

    def update(updates, params=None):
        del params
        layers = defaultdict(list)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(updates):
            layers[path_of(keys[:-1])].append(leaf)
        norms = {layer: optax.global_norm(leaves) for layer, leaves in layers.items()}

        def clip(keys, g):
            norm = norms[path_of(keys[:-1])]
            return jnp.where(norm > max_norm, g * (max_norm / norm).astype(g.dtype), g)

        return jax.tree_util.tree_map_with_path(clip, updates)

    return optax.stateless(update)


def clip_by_squared_norm(threshold: float) -> optax.GradientTransformation:
    """`s = sum(g * g); if s > threshold: g *= threshold / s`, as the lectures print it.

    The norm becomes `threshold / |g|`: the larger the gradient, the smaller the step. The rule that
    was meant, `g *= threshold / |g|` where |g| > threshold (Pascanu et al. 2013), is `clip_norm`;
    the two agree only where |g| = 1 or neither acts.
    """

    def update(updates, params=None):
        del params
        s = optax.tree.norm(updates, squared=True)
        scale = jnp.where(s > threshold, threshold / s, 1.0)
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates)

    return optax.stateless(update)

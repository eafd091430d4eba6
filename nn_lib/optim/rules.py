"""Update rules: each optimizer of the lectures as Optax ships it and as it is printed.

A rule turns gradients into a direction; the learning rate comes after it, except where the rule's
equation has it inside the velocity (`rate_inside`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Rule:
    """One optimizer.

    Attributes:
      transform: `config -> GradientTransformation`.
      epsilon: what `config.epsilon` of None means.
      rate_inside: the transformation accumulates `-a g`, not `g`: the two differ when `a` changes.
    """

    transform: Callable[[Any], optax.GradientTransformation]
    epsilon: float = 0.0
    rate_inside: bool = False


def scale_by_adagrad(epsilon: float) -> optax.GradientTransformation:
    """`s += g^2; g / (sqrt(s) + epsilon)` with s from zero (Duchi et al. 2011, as in cs231n).

    Also the form of torch; Optax starts s at 0.1 and has epsilon inside the root.
    """

    def init(params):
        return optax.ScaleByRssState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        s = jax.tree.map(lambda s, g: s + g * g, state.sum_of_squares, updates)
        scaled = jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + epsilon), updates, s)
        return scaled, optax.ScaleByRssState(s)

    return optax.GradientTransformation(init, update)


class MomentsState(NamedTuple):
    """Moving averages of the gradient and of its square."""

    m: optax.Updates
    v: optax.Updates


def scale_by_uncorrected_adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """`m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; m / (sqrt(v) + epsilon)`, both from zero.

    Adam as the lectures print it, without the bias correction of Kingma & Ba 2015: the first step
    is `(1 - b1) / sqrt(1 - b2)` times as long, 3.16 with the usual constants.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return MomentsState(m=zeros, v=zeros)

    def update(updates, state, params=None):
        del params
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.m, updates)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.v, updates)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), m, v)
        return scaled, MomentsState(m, v)

    return optax.GradientTransformation(init, update)


class LookaheadState(NamedTuple):
    """The velocity v, and rho, which `gradient_params` needs to find `x + rho v`."""

    velocity: optax.Updates
    rho: jax.Array


def lookahead_momentum(rho: float) -> optax.GradientTransformation:
    """`v = rho v - a g(x + rho v); x += v`, Nesterov's momentum as printed; takes `-a g`.

    The gradient belongs to `gradient_params(params, opt_state)`, not to the parameters.
    Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".
    """

    def init(params):
        return LookaheadState(jax.tree.map(jnp.zeros_like, params), jnp.array(rho))

    def update(updates, state, params=None):
        del params
        velocity = jax.tree.map(lambda v, u: rho * v + u, state.velocity, updates)
        return velocity, LookaheadState(velocity, state.rho)

    return optax.GradientTransformation(init, update)


def gradient_params(params: optax.Params, opt_state: optax.OptState) -> optax.Params:
    """Where the next gradient is taken: `x + rho v` under look-ahead momentum, else `params`."""

    def is_state(node):
        return isinstance(node, LookaheadState)

    for state in filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state)):

        def ahead(x, v, rho=state.rho):
            return x if isinstance(v, optax.MaskedNode) else x + rho.astype(x.dtype) * v

        return jax.tree.map(ahead, params, state.velocity)
    return params


_SGD = Rule(lambda config: optax.identity())
_MOMENTUM = Rule(lambda config: optax.trace(config.momentum))
_ADAM = Rule(lambda config: optax.scale_by_adam(config.b1, config.b2, config.epsilon), 1e-8)
_PRINTED_ADAM = Rule(
    lambda config: scale_by_uncorrected_adam(config.b1, config.b2, config.epsilon), 1e-8
)

# name -> variant -> rule
RULES: dict[str, dict[str, Rule]] = {
    "sgd": {"optax": _SGD, "lecture": _SGD},
    "momentum": {
        "optax": _MOMENTUM,
        "lecture": _MOMENTUM,
        # v = rho v - a (g + decay w); w += v, with the rate inside (Krizhevsky et al. 2012).
        "alexnet": Rule(lambda config: optax.trace(config.momentum), rate_inside=True),
    },
    "nesterov": {
        "optax": Rule(lambda config: optax.trace(config.momentum, nesterov=True)),
        # v' = rho v - a g; x += v' + rho (v' - v), in x~ = x + rho v.
        "lecture": Rule(
            lambda config: optax.trace(config.momentum, nesterov=True), rate_inside=True
        ),
        "lookahead": Rule(lambda config: lookahead_momentum(config.momentum), rate_inside=True),
    },
    "adagrad": {
        "optax": Rule(lambda config: optax.scale_by_rss(eps=config.epsilon), 1e-7),
        "lecture": Rule(lambda config: scale_by_adagrad(config.epsilon), 1e-7),
        # s from zero, epsilon inside the root.
        "min_char_rnn": Rule(
            lambda config: optax.scale_by_rss(initial_accumulator_value=0.0, eps=config.epsilon),
            1e-8,
        ),
    },
    "rmsprop": {
        "optax": Rule(lambda config: optax.scale_by_rms(config.rms_decay, config.epsilon), 1e-8),
        # epsilon outside the root, as torch has it too.
        "lecture": Rule(
            lambda config: optax.scale_by_rms(config.rms_decay, config.epsilon, eps_in_sqrt=False),
            1e-7,
        ),
    },
    "adam": {"optax": _ADAM, "lecture": _PRINTED_ADAM},
    "adamw": {"optax": _ADAM, "lecture": _PRINTED_ADAM},
}

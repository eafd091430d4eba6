"""Rematerialisation: activations within a block are computed again in the backward pass, not kept.

Memory for time: with 'full' only the inputs of blocks are kept, for about one more forward pass;
with 'dots' the results of products and convolutions too, so that only what is cheap (norms,
rectifiers) is computed twice. Parameters, outputs and gradients are the same.

For a CPU, XLA merges the second computation with the first, and nothing is saved, unless it is told
not to: `jax.jit(step, compiler_options=KEEP_ON_CPU)`, as `nn_lib.train` does.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from nn_lib.checks import check_choice
from nn_lib.layers.fast_convolution import convolution_p, input_gradient_p


def _products(primitive, *args, **params) -> bool:
    """Products and convolutions, that of the fast paths included."""
    if primitive in (convolution_p, input_gradient_p):  # of Conv and of ConvTranspose
        return True
    return jax.checkpoint_policies.dots_saveable(primitive, *args, **params)


KEEP_ON_CPU: dict[str, str | bool] = {"xla_disable_hlo_passes": "cse_barrier_expander"}
POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": _products,
}


def rematerialised(block: Callable, policy: str, *, train_argument: int | None = None) -> Any:
    """A module class, or a function `(module, x)`, whose calls keep only what the policy says.

    Args:
      policy: 'none', 'full' or 'dots'.
      train_argument: the place of the flag `train` among the arguments of a call; self is 0.

    Raises:
      UserError: an unknown policy.
    """
    check_choice("remat", policy, POLICIES)
    if policy == "none":
        return block
    static = () if train_argument is None else (train_argument,)
    return nn.remat(block, policy=POLICIES[policy], static_argnums=static)

"""Computing in another precision than the parameters are kept in, passed on to every part."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.layers.activations import at_least_float32


def with_dtype(module: Any, dtype: Any) -> Any:
    """The module, unbound, with `dtype` in each of its parts that has that field at None.

    >>> with_dtype(Stacked([RNN(LSTMCell(4)), RNN(LSTMCell(4))]), jnp.bfloat16)

    Parts are modules in fields and in sequences of them; what a module makes in its methods gets
    the dtype from it. Parameters stay float32, losses and statistics are computed in float32.
    """
    if isinstance(module, list | tuple):
        parts = [with_dtype(part, dtype) for part in module]
        changed = any(new is not old for new, old in zip(parts, module))
        return type(module)(parts) if changed else module
    if dtype is None or not isinstance(module, nn.Module):
        return module
    changes = _changes(module, dtype)
    return module.clone(**changes) if changes else module


class Composite(nn.Module):
    """A module whose `dtype` is also that of the modules that it is handed as fields."""

    def __post_init__(self):
        for name, value in _changes(self, getattr(self, "dtype", None)).items():
            object.__setattr__(self, name, value)
        super().__post_init__()


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """`y + bias` in the dtype of y, a bias spread over y's leading axes.

    The gradient of the bias is a sum over those axes, which half precision would lose: a sum of
    ones in bfloat16 ends at 256. It is taken in float32.
    """
    return (at_least_float32(y) + at_least_float32(bias)).astype(y.dtype)


def scale_by(y: jax.Array, scale: jax.Array) -> jax.Array:
    """`y * scale` likewise."""
    return (at_least_float32(y) * at_least_float32(scale)).astype(y.dtype)


def summable(tree: Any) -> Any:
    """The arrays in float32 where they are of half precision, so that gradients add up in it.

    For what every step of a scan uses: the scan's gradient is a sum over the steps in the dtype
    that enters it. The step takes `tree` back to its dtypes by `like`.
    """

    def leaf(x):
        return at_least_float32(x) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(leaf, tree)


def like(tree: Any, kinds: Any) -> Any:
    """Every array in the dtype of its counterpart."""
    return jax.tree.map(lambda x, kind: x.astype(kind.dtype), tree, kinds)


def _changes(module: nn.Module, dtype: Any) -> dict[str, Any]:
    """The fields that get the dtype, or parts that have it."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(module):
        if field.init and field.name not in ("parent", "name"):
            before = getattr(module, field.name)
            after = dtype if field.name == "dtype" and before is None else before
            if isinstance(before, nn.Module | list | tuple):
                after = with_dtype(before, dtype)
            if after is not before:
                changes[field.name] = after
    return changes

"""Computing in another precision than the parameters are kept in, passed on to every part."""

import dataclasses
from typing import Any

import flax.linen as nn


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

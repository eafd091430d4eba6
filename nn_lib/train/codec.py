"""Experiments as data: dataclasses and modules to JSON and back, without running code from it.

A dataclass or module becomes `{"class": "module:qualname", "fields": {...}}`, a named function
`{"function": "module:qualname"}`, a partial of one `{"partial": ..., "keywords": {...}}`, a dtype
`{"dtype": name}`. Decoding imports only from the packages it is told to trust.
"""

import dataclasses
import functools
import importlib
import importlib.machinery
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError

TRUSTED = ("nn_lib", "flax", "jax", "optax")
# Where jax and flax re-export what they define in private modules.
PUBLIC_MODULES = ("jax.numpy", "jax.nn", "jax.nn.initializers", "flax.linen", "optax")
AS_DEFAULT = {"default": True}


def encode(value: Any, where: str = "experiment") -> Any:
    """JSON-ready data that `decode` turns back into an equal value.

    Raises:
      UserError: a lambda, a closure or another value that has no name, with its field.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        encoded = {}
        for field in _fields(value):
            item = getattr(value, field.name)
            try:
                encoded[field.name] = encode(item, f"{where}.{field.name}")
            except UserError:
                # An initialiser that a library made by a closure has no name; the default has.
                if item is not field.default:
                    raise
                encoded[field.name] = AS_DEFAULT
        return {"class": _name(type(value), where), "fields": encoded}
    if isinstance(value, functools.partial):
        if value.args:
            raise UserError(f"{where}: bind functools.partial by keyword, so that each has a name")
        keywords = {name: encode(item, f"{where}.{name}") for name, item in value.keywords.items()}
        return {"partial": encode(value.func, where), "keywords": keywords}
    dtype = _dtype_name(value)
    if dtype is not None:
        return {"dtype": dtype}
    if callable(value):
        return {"function": _name(value, where)}
    raise UserError(
        f"{where} holds a {type(value).__name__}, which cannot be saved; experiments hold numbers, "
        "strings, tuples, dataclasses, modules, dtypes and named functions"
    )


def decode(data: Any, trusted: tuple[str, ...] = TRUSTED) -> Any:
    """The value that `encode` saved; JSON lists come back as tuples.

    Raises:
      UserError: a name outside the trusted packages, or one that is no longer there.
    """
    if isinstance(data, list):
        return tuple(decode(item, trusted) for item in data)
    if not isinstance(data, dict):
        return data
    if "dtype" in data:
        return getattr(jnp, data["dtype"])
    if "function" in data:
        return _find(data["function"], trusted)
    keywords: dict[str, Any] = data["fields"] if "fields" in data else data.get("keywords", {})
    keywords = {
        name: decode(item, trusted) for name, item in keywords.items() if item != AS_DEFAULT
    }
    if "partial" in data:
        return functools.partial(decode(data["partial"], trusted), **keywords)
    kind = _find(data["class"], trusted)
    try:
        return kind(**keywords)
    except TypeError as error:
        raise UserError(f"the saved {data['class']} does not fit this code: {error}") from error


def differences(before: Any, after: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted field -> (before, after) wherever two encoded experiments differ."""
    if (
        isinstance(before, dict)
        and isinstance(after, dict)
        and before.get("class") == after.get("class")
    ):
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted({*before, *after}):
            step = where if name in ("fields", "keywords") else f"{where}.{name}".strip(".")
            found |= differences(before.get(name), after.get(name), step)
        return found
    return {} if before == after else {where: (brief(before), brief(after))}


def brief(data: Any) -> Any:
    """An encoded value as a person would write it in an error message."""
    if not isinstance(data, dict):
        return data
    if "partial" in data:
        keywords = ", ".join(f"{name}={brief(item)}" for name, item in data["keywords"].items())
        return f"{brief(data['partial'])}({keywords})"
    return next((data[key] for key in ("class", "function", "dtype") if key in data), data)


def _fields(value: Any) -> list[dataclasses.Field]:
    ours = [field for field in dataclasses.fields(value) if field.init]
    if isinstance(value, nn.Module):
        ours = [field for field in ours if field.name not in ("parent", "name")]
    return ours


def _dtype_name(value: Any) -> str | None:
    """'float32' for `jnp.float32`, `np.float32` and `np.dtype('float32')`; None for others."""
    is_numpy = isinstance(value, np.dtype) or (
        isinstance(value, type) and issubclass(value, np.generic)
    )
    is_jax = type(value) is type(jnp.float32)
    return jnp.dtype(value).name if is_numpy or is_jax else None


def _name(thing: Any, where: str) -> str:
    """'module:qualname', by the public module where there is one."""
    for module in PUBLIC_MODULES:
        name = getattr(thing, "__name__", "")
        if thing is getattr(importlib.import_module(module), name, None):
            return f"{module}:{name}"
    if importlib.machinery.PathFinder.find_spec(thing.__module__.split(".")[0]) is None:
        raise UserError(
            f"{where} is defined in a config file or a session, where no later run can find it; "
            "move it to a module that can be imported"
        )
    qualname = getattr(thing, "__qualname__", "<nameless>")
    if "<" in qualname:
        raise UserError(
            f"{where} is a lambda or a function inside a function, which has no name to save; "
            "define it at the top of a module, and bind settings by functools.partial"
        )
    return f"{thing.__module__}:{qualname}"


def _find(name: str, trusted: tuple[str, ...]) -> Any:
    module, _, qualname = name.partition(":")
    if module.split(".")[0] not in trusted:
        raise UserError(
            f"the configuration names {name!r}, outside the trusted packages "
            f"{', '.join(trusted)}; add its package by --trust if it is yours"
        )
    try:
        return functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise UserError(f"the configuration names {name!r}, which is not there: {error}") from error

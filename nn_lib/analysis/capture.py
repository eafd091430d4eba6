"""Activations of any layer of any Flax model, without editing it."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from nn_lib.checks import UserError, nearest


def capture(
    model: nn.Module, variables: Any, *inputs: Any, names: Sequence[str], **kwargs: Any
) -> tuple[Any, dict[str, Any]]:
    """`(model.apply(variables, *inputs, **kwargs), {name: what that layer returned})`.

    A name is a layer's path in the parameters, 'layer/forward' or 'Dense_0'. Works under jit. Our
    networks of images take `capture=` in their call as well. A layer that is called several times
    gives its last result; one that runs inside `nn.scan` or `nn.remat` cannot be seen from outside.

    Raises:
      UserError: a name that no layer has; lists them.
    """
    seen: dict[str, Any] = {}

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if context.method_name == "__call__" and path:
            seen[path] = result
        return result

    with nn.intercept_methods(watch):
        outputs = model.apply(variables, *inputs, **kwargs)
    for name in names:
        if name not in seen:
            raise UserError(
                f"{type(model).__name__}: names={name!r} is no layer; {nearest(name, seen)}"
                f" (all: {', '.join(seen)})"
            )
    return outputs, {name: seen[name] for name in names}

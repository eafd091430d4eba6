"""What every image network shares: checked inputs, captured activations, errors with a place."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from nn_lib.checks import UserError, nearest
from nn_lib.layers.rematerialisation import rematerialised


class ImageModel(nn.Module):
    """`model.apply(variables, images, train=False, capture=()) -> outputs`.

    A network of this kind writes `network(images, train)`; a call checks the images first.

    Args of a call:
      images: `[B, H, W, C]`, floating.
      train: batch statistics and dropout as in training.
      capture: names of layers, as 'stage3' or 'stage3/block1/conv2'; with any, the call returns
        `(outputs, {name: activation})`.

    Raises:
      UserError: images of another rank or type, channels first, too small (which layer ran out of
        pixels is said), or of another size than at `init`; an unknown name in `capture`.
    """

    made_for: ClassVar[str] = "224x224 pixels"

    def again(self, block: Any, *, train_argument: int | None = None) -> Any:
        """The block under the network's `remat`; as it is where layers within may be captured."""
        if self._captures:
            return block
        return rematerialised(block, self.remat, train_argument=train_argument)

    def network(self, images: jax.Array, train: bool) -> Any:
        """The layers, `@nn.compact`."""
        raise NotImplementedError  # every network has its own

    def __call__(self, images: jax.Array, train: bool = False, capture: Sequence[str] = ()) -> Any:
        check_images(type(self).__name__, images)
        names = (capture,) if isinstance(capture, str) else tuple(capture or ())
        seen: dict[str, Any] = {}
        depth = len(self.path)
        object.__setattr__(self, "_captures", bool(names))  # a module is frozen here

        def watch(call, args, kwargs, context):
            """Notes what a layer returns, and adds the layer's name to its errors."""
            path = "/".join(context.module.path[depth:])
            if context.method_name != "__call__" or not path:
                return call(*args, **kwargs)
            try:
                seen[path] = call(*args, **kwargs)
            except _Located:
                raise
            except UserError as error:
                shape = list(images.shape)
                hint = f"; it is made for {self.made_for}" if "out of pixels" in str(error) else ""
                raise _Located(
                    f"{type(self).__name__} on images {shape}, {path}: {error}{hint}"
                ) from None
            except flax.errors.ScopeParamShapeError as error:
                raise _Located(
                    f"{type(self).__name__} on images {list(images.shape)}, {path}: the weights "
                    "have another shape, were they initialised for another size or number of "
                    f"channels? ({_first_line(error)})"
                ) from None
            return seen[path]

        with nn.intercept_methods(watch):
            outputs = self.network(images, train)
        if not names:
            return outputs
        for name in names:
            if name not in seen:
                raise UserError(
                    f"{type(self).__name__}: capture={name!r} is no layer; {nearest(name, seen)}"
                    f" (all: {', '.join(seen)})"
                )
        return outputs, {name: seen[name] for name in names}


class _Located(UserError):
    """An error that already says which layer."""


def _first_line(error: Exception) -> str:
    return str(error).split("(http")[0].strip()


def check_images(who: str, images: jax.Array) -> None:
    """Raises UserError unless images are `[B, H, W, C]` and floating; channels first are named."""
    if images.ndim != 4:
        raise UserError(
            f"{who} expects images [B, H, W, C], got {list(images.shape)}"
            + ("; for a single image, images[None]" if images.ndim == 3 else "")
        )
    if images.shape[1] <= 4 < min(images.shape[2:]):
        raise UserError(
            f"{who} expects images [B, H, W, C], got {list(images.shape)}, which has its channels "
            "first; use images.transpose(0, 2, 3, 1)"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"{who} expects floating images, got {images.dtype}; scale them first, as in "
            "images / 255"
        )

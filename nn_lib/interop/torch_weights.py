"""Torch's state dicts, in and out: from files or mappings to our variables, and back."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from nn_lib.checks import UserError, first_line
from nn_lib.interop.torch_convnets import convnet_from_torch, convnet_to_torch, is_convnet
from nn_lib.interop.torch_recurrent import recurrent_from_torch, recurrent_to_torch
from nn_lib.recurrent import RNN, Bidirectional, Stacked


def from_torch(model: nn.Module, state_dict: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Variables of `model` from torch's state dict, the dtypes kept.

    Convnets (AlexNet, VGG, GoogLeNet, ResNet in torchvision's forms, see `torchvision_model`)
    give `{'params': ..., 'batch_stats': ...}`; heads that the model does without
    (`num_classes=None`, `auxiliary=False`) may be in the state dict and are left out. Recurrent
    models (an `RNN`, a `Bidirectional`, a `Stacked` of them) give `{'params': ...}`; the two biases
    of a vanilla cell or an LSTM are added up, as torch does in every step, and a state dict without
    any bias gives zeros.

    Args:
      state_dict: names to arrays (or to torch's tensors), or a file, `.safetensors` or `.pth`.

    Raises:
      UserError: a model that torch has not; names that are missing, unexpected or misshapen, all in
        one message; a file that cannot be read.
    """
    if isinstance(state_dict, str | os.PathLike):
        state_dict = read_state_dict(state_dict)
    arrays = {name: _as_array(value) for name, value in state_dict.items()}
    if is_convnet(model):
        return convnet_from_torch(model, arrays)
    _check_known("from_torch", model)
    return recurrent_from_torch(model, arrays)


def to_torch(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Torch's state dict of the same function, as arrays.

    Batch norms get `num_batches_tracked = 0`, which torch uses only without a momentum. Of two
    biases the second is zero where one would do.
    """
    if "params" not in variables:
        raise UserError("to_torch expects variables {'params': ...}, as init returns them")
    if is_convnet(model):
        return convnet_to_torch(model, variables)
    _check_known("to_torch", model)
    return recurrent_to_torch(model, variables)


def _check_known(who: str, model: nn.Module) -> None:
    if not isinstance(model, RNN | Stacked | Bidirectional):
        raise UserError(
            f"{who} knows AlexNet, VGG, GoogLeNet and ResNet (see torchvision_model), and RNN, "
            f"Stacked and Bidirectional; {type(model).__name__} is none of them"
        )


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Names to arrays from a `.safetensors` file, or with torch's help from a `.pth`.

    Of a `.pth` only weights are loaded, no code; one that holds them under 'state_dict' is opened.

    Raises:
      UserError: no such file, one that is damaged or something else, or a `.pth` without torch.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}; check the spelling")
    if path.suffix == ".safetensors":
        try:
            return safetensors.numpy.load_file(path)
        except (safetensors.SafetensorError, ValueError, OSError, AttributeError) as error:
            raise UserError(f"{str(path)!r} cannot be read as safetensors: {error}") from None
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{str(path)!r} takes torch to read; install it, or save the weights as .safetensors"
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{str(path)!r} cannot be read as torch's weights: {first_line(error)}"
        ) from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(hasattr(v, "shape") for v in loaded.values()):
        raise UserError(f"{str(path)!r} holds no state dict, names to arrays")
    return {name: _as_array(value) for name, value in loaded.items()}


def write_state_dict(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes a `.safetensors` file, which torch reads by `safetensors.torch.load_file`."""
    arrays = {name: np.ascontiguousarray(array) for name, array in state_dict.items()}
    safetensors.numpy.save_file(arrays, path)


def _as_array(value: Any) -> np.ndarray:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy has not by itself
        return tensor.contiguous().view(dtype=_torch().uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _torch():
    import torch

    return torch

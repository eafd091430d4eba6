"""Weights of other libraries, in and out."""

from nn_lib.interop.torch_convnets import torchvision_model, transform_input
from nn_lib.interop.torch_weights import (
    from_torch,
    read_state_dict,
    to_torch,
    write_state_dict,
)

__all__ = [
    "from_torch",
    "read_state_dict",
    "to_torch",
    "torchvision_model",
    "transform_input",
    "write_state_dict",
]

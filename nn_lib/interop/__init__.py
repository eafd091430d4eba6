"""Weights of other libraries, in and out."""

from nn_lib.interop.torch_recurrent import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]

"""Layers: one time-independent transformation each, channels last, `[B, *spatial, C]`."""

from nn_lib.layers.activations import lenet_squash, maxout, scaled_tanh
from nn_lib.layers.conv import Conv, convolve
from nn_lib.layers.pooling import avg_pool, global_avg_pool, global_max_pool, max_pool

__all__ = [
    "Conv",
    "avg_pool",
    "convolve",
    "global_avg_pool",
    "global_max_pool",
    "lenet_squash",
    "max_pool",
    "maxout",
    "scaled_tanh",
]

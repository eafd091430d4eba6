"""Layers: one time-independent transformation each, channels last, `[B, *spatial, C]`.

The norms but `BatchNorm` and `LocalResponseNorm` are Flax's own, as dense layers and dropout of
single units are.
"""

from nn_lib.layers.activations import lenet_squash, maxout, scaled_tanh
from nn_lib.layers.batch_norm import BatchNorm
from nn_lib.layers.blocks import Apply, ConvUnit, Inception
from nn_lib.layers.conv import Conv, ConvTranspose, convolve, convolve_transposed
from nn_lib.layers.conv_variants import DepthwiseConv, LocallyConnected, SeparableConv
from nn_lib.layers.fast_paths import fast_paths
from nn_lib.layers.highway import Highway
from nn_lib.layers.normalization import (
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    local_response_norm,
)
from nn_lib.layers.pooling import (
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
    max_pool_with_switches,
    sum_pool,
    unpool,
)
from nn_lib.layers.precision import with_dtype
from nn_lib.layers.regularization import DropPath, SpatialDropout
from nn_lib.layers.residual import ResidualBlock
from nn_lib.layers.subsampling import PartialConv, Subsampling

__all__ = [
    "Apply",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "ConvUnit",
    "DepthwiseConv",
    "DropPath",
    "GroupNorm",
    "Highway",
    "Inception",
    "InstanceNorm",
    "LayerNorm",
    "LocalResponseNorm",
    "LocallyConnected",
    "PartialConv",
    "ResidualBlock",
    "SeparableConv",
    "SpatialDropout",
    "Subsampling",
    "adaptive_avg_pool",
    "avg_pool",
    "convolve",
    "convolve_transposed",
    "fast_paths",
    "global_avg_pool",
    "global_max_pool",
    "lenet_squash",
    "local_response_norm",
    "max_pool",
    "max_pool_with_switches",
    "maxout",
    "scaled_tanh",
    "sum_pool",
    "unpool",
    "with_dtype",
]

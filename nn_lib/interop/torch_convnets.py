"""torchvision's AlexNet, VGG, GoogLeNet and ResNet against ours: one table of names for each.

A layer has one name here, as 'stage1/block1/conv2', and one there, as 'layer1.0.conv2'; everything
else follows from the kind of layer. Torch's kernels are `[out, in / groups, *window]`, ours
`[*window, in / groups, out]`; its dense matrices are `[out, in]`, and the first one after the maps
numbers its inputs channel by channel, ours pixel by pixel.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError, check_choice
from nn_lib.models import (
    VGG,
    VGG11,
    VGG13,
    VGG16,
    VGG19,
    AlexNet,
    GoogLeNet,
    ResNet,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
)
from nn_lib.models.googlenet import INCEPTIONS

_ALEXNET: dict[str, Any] = {
    "widths": (64, 192, 384, 256, 256),
    "order": "pool",
    "stem_padding": 2,
    "pooled": 6,
}
_GOOGLENET: dict[str, Any] = {
    "batch_norm": True,
    "window5": 3,
    "pool4": 2,
    "adaptive": True,
    "epsilon": 1e-3,
}

TORCHVISION: dict[str, Callable[..., nn.Module]] = {
    "alexnet": functools.partial(AlexNet, **_ALEXNET, dropout_first=True),
    "googlenet": functools.partial(GoogLeNet, **_GOOGLENET, dropout=0.2),
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "resnet152": ResNet152,
    "wide_resnet50_2": functools.partial(ResNet50, inner_factor=2),
    "wide_resnet101_2": functools.partial(ResNet101, inner_factor=2),
}
for _depth, _model in {11: VGG11, 13: VGG13, 16: VGG16, 19: VGG19}.items():
    TORCHVISION[f"vgg{_depth}"] = functools.partial(_model, pooled=7)
    TORCHVISION[f"vgg{_depth}_bn"] = functools.partial(_model, pooled=7, batch_norm=True)


def torchvision_model(name: str, **fields: Any) -> nn.Module:
    """Our module in the form that torchvision has under that name.

    For 'googlenet' the field `auxiliary=True` adds the two heads.

    Raises:
      UserError: an unknown name; the nearest are offered.
    """
    check_choice("torchvision_model: name", name, TORCHVISION)
    return TORCHVISION[name](**fields)


def transform_input(images: jax.Array) -> jax.Array:
    """What torchvision's pretrained GoogLeNet does to its images `[B, H, W, 3]` first.

    From the mean and standard deviation of ImageNet to a mean and standard deviation of 1/2.
    """
    mean, std = jnp.array([0.485, 0.456, 0.406]), jnp.array([0.229, 0.224, 0.225])
    return ((images * std + mean - 0.5) / 0.5).astype(images.dtype)


def is_convnet(model: nn.Module) -> bool:
    return isinstance(model, tuple(_NAMES))


def convnet_from_torch(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`{'params': ..., 'batch_stats': ...}`; see `nn_lib.interop.from_torch`."""
    entries = dict(_entries(model, arrays, None))
    known = {entry.name: entry.torch_shape for entry in entries.values()}
    # What torch counts beside each norm, and heads that the model does without.
    norms = {name.rpartition(".")[0] for name in known if name.endswith("running_var")}
    heads = [theirs for ours, theirs in _NAMES[type(model)](model) if _is_head(ours, model)]
    allowed = {f"{norm}.num_batches_tracked" for norm in norms}
    allowed |= {name for name in arrays if name.startswith(tuple(f"{head}." for head in heads))}
    found = {name: array.shape for name, array in arrays.items()}
    _check(f"from_torch: the state dict does not fit {type(model).__name__}", known, found, allowed)
    ours = {path: entry.to_ours(arrays[entry.name]) for path, entry in entries.items()}
    return flax.traverse_util.unflatten_dict(ours)


def convnet_to_torch(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Torch's state dict; see `nn_lib.interop.to_torch`."""
    ours = flax.traverse_util.flatten_dict(dict(variables))
    entries = dict(_entries(model, None, ours))
    known = {"/".join(path): entry.shape for path, entry in entries.items()}
    found = {"/".join(path): leaf.shape for path, leaf in ours.items()}
    _check(f"to_torch: the variables do not fit {type(model).__name__}", known, found, set())
    state_dict = {}
    for path, entry in entries.items():
        state_dict[entry.name] = entry.to_torch(np.asarray(ours[path]))
        if entry.name.endswith("running_var"):
            tracked = entry.name.replace("running_var", "num_batches_tracked")
            state_dict[tracked] = np.zeros((), np.int64)
    return state_dict


def _check(complaint: str, known: dict, found: dict, allowed: set[str]) -> None:
    missing = [name for name in known if name not in found]
    unexpected = [name for name in found if name not in known and name not in allowed]
    misshapen = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in known.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if missing or unexpected or misshapen:
        raise UserError(
            f"{complaint}; missing: {', '.join(missing) or 'none'}; unexpected: "
            f"{', '.join(unexpected) or 'none'}; misshapen: {'; '.join(misshapen) or 'none'}"
        )


def _is_head(layer: str, model) -> bool:
    """A classifier that the model, as it is configured, does without."""
    if layer.startswith("auxiliary"):
        return not (model.auxiliary and model.num_classes is not None)
    return layer in ("linear", "fc8") and model.num_classes is None


class _Entry:
    """One array: its name and shape in torch, and how to turn it."""

    def __init__(self, name: str, shape: tuple[int, ...], leaf: str, maps: tuple[int, int] | None):
        self.name, self.shape, self.leaf = name, shape, leaf
        self.maps = maps  # height and width of the maps that a dense layer flattens
        self.torch_shape = tuple(shape[i] for i in self._order)

    @property
    def _order(self) -> tuple[int, ...]:
        """Torch's axes among ours."""
        rank = len(self.shape)
        if self.leaf != "kernel":
            return tuple(range(rank))
        return (rank - 1, rank - 2, *range(rank - 2))

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        if self.maps:
            out, inputs = array.shape
            by_channel = array.reshape(out, -1, *self.maps)
            return np.ascontiguousarray(by_channel.transpose(2, 3, 1, 0)).reshape(inputs, out)
        return np.ascontiguousarray(array.transpose(np.argsort(self._order)))

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        if self.maps:
            inputs, out = array.shape
            by_pixel = array.reshape(*self.maps, -1, out)
            return np.ascontiguousarray(by_pixel.transpose(3, 2, 0, 1)).reshape(out, inputs)
        return np.ascontiguousarray(array.transpose(self._order))


def _entries(model, arrays, ours=None) -> Iterator[tuple[tuple[str, ...], _Entry]]:
    """Our path of every array, and what it is in torch."""
    if isinstance(model, ResNet) and model.pre_activation:
        raise UserError("torchvision has no ResNet with pre_activation; its blocks are v1.5")
    shapes = flax.traverse_util.flatten_dict(_shapes(model, arrays, ours))
    names = dict(_NAMES[type(model)](model))
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    leaves |= {"mean": "running_mean", "var": "running_var"}
    for path, leaf in shapes.items():
        layer = "/".join(path[1:-1])
        name, shape = f"{names[layer]}.{leaves[path[-1]]}", leaf.shape
        if layer == "fc6" and path[-1] == "kernel":  # its rows depend on the size of the images
            given = (ours or {}).get(path) if arrays is None else arrays.get(name)
            if given is not None and given.ndim == 2:
                rows = given.shape[0 if arrays is None else 1]
                side = round((rows / model.widths[-1]) ** 0.5)
                shape = (rows if rows == side**2 * model.widths[-1] else shape[0], shape[1])
        maps = _flattened(model, layer, shape) if path[-1] == "kernel" else None
        yield path, _Entry(name, shape, path[-1], maps)


def _shapes(model, arrays, ours):
    """Shapes of the variables, for images of the usual size with the channels that came."""
    channels = 3
    stem = next(iter(dict(_NAMES[type(model)](model)).items()))
    if arrays is not None:
        weight = arrays.get(f"{stem[1]}.weight")
        channels = weight.shape[1] if weight is not None and weight.ndim == 4 else channels
    elif ours:
        kernel = ours.get(("params", *stem[0].split("/"), "kernel"))
        channels = kernel.shape[2] if kernel is not None else channels
    size = 227 if isinstance(model, AlexNet) and not model.stem_padding else 224
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def _flattened(model, layer: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of the maps that a dense layer gets flattened."""
    if layer.endswith("/fc1"):  # of an auxiliary head, after 128 channels
        return (4, 4)
    if layer == "fc6":
        channels = model.widths[-1]
        side = round((shape[0] // channels) ** 0.5)
        return side, side
    return None


def _alexnet(model: AlexNet) -> Iterator[tuple[str, str]]:
    yield from zip([f"conv{i}" for i in range(1, 6)], [f"features.{i}" for i in (0, 3, 6, 8, 10)])
    yield from zip(("fc6", "fc7", "fc8"), [f"classifier.{i}" for i in (1, 4, 6)])


def _vgg(model: VGG) -> Iterator[tuple[str, str]]:
    place = 0
    for stage, size in enumerate(model.stage_sizes, start=1):
        for i in range(1, size + 1):
            yield f"conv{stage}_{i}/conv", f"features.{place}"
            if model.batch_norm:
                yield f"conv{stage}_{i}/norm", f"features.{place + 1}"
            place += 3 if model.batch_norm else 2
        place += 1  # the pool
    yield from zip(("fc6", "fc7", "fc8"), [f"classifier.{i}" for i in (0, 3, 6)])


def _googlenet(model: GoogLeNet) -> Iterator[tuple[str, str]]:
    units = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}
    paths = {
        "conv1x1": "branch1",
        "reduce3x3": "branch2.0",
        "conv3x3": "branch2.1",
        "reduce5x5": "branch3.0",
        "conv5x5": "branch3.1",
        "pool_project": "branch4.1",
    }
    for block in INCEPTIONS:
        for ours, theirs in paths.items():
            units[f"inception{block}/{ours}"] = f"inception{block}.{theirs}"
    heads = {"auxiliary4a": "aux1", "auxiliary4d": "aux2"}
    for ours, theirs in (units | {f"{a}/conv": f"{b}.conv" for a, b in heads.items()}).items():
        yield f"{ours}/conv", f"{theirs}.conv"
        yield f"{ours}/norm", f"{theirs}.bn"
    for ours, theirs in heads.items():
        yield from ((f"{ours}/{layer}", f"{theirs}.{layer}") for layer in ("fc1", "fc2"))
    yield "linear", "fc"


def _resnet(model: ResNet) -> Iterator[tuple[str, str]]:
    yield "conv1", "conv1"
    yield "norm1", "bn1"
    for stage, size in enumerate(model.stage_sizes, start=1):
        for block in range(size):
            ours, theirs = f"stage{stage}/block{block + 1}", f"layer{stage}.{block}"
            for i in (1, 2, 3):
                yield f"{ours}/conv{i}", f"{theirs}.conv{i}"
                yield f"{ours}/norm{i}", f"{theirs}.bn{i}"
            yield f"{ours}/shortcut_conv", f"{theirs}.downsample.0"
            yield f"{ours}/shortcut_norm", f"{theirs}.downsample.1"
    yield "linear", "fc"


_NAMES: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    AlexNet: _alexnet,
    VGG: _vgg,
    GoogLeNet: _googlenet,
    ResNet: _resnet,
}

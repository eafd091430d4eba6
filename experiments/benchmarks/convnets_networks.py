"""Whole networks for `convnets`: a training step and inference of ours and of each peer."""

import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import flax_networks
from nn_lib.interop import torchvision_model
from nn_lib.layers import fast_paths
from nn_lib.models import ResNet18, ResNet50

SIZES = {"resnet18_cifar": 32, "resnet50": 224, "googlenet": 224}
BATCHES = {"resnet18_cifar": 32, "resnet50": 8, "googlenet": 8}
RATE, MOMENTUM, AUXILIARY = 0.01, 0.9, 0.3


def batch(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count, SIZES[name], SIZES[name], 3)).astype(np.float32)
    return images, rng.integers(0, 10, count)


class JaxNetwork:
    """`side(train)` runs a compiled training step, momentum included, or inference."""

    def __init__(self, apply: Callable, variables, images, labels):
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        optimizer = optax.sgd(RATE, momentum=MOMENTUM)
        variables = jax.tree.map(jnp.copy, variables)
        params = variables["params"]
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def step(params, rest, memory, images, labels):
            def loss(params):
                outputs, new = apply({"params": params, **rest}, images, True)
                logits, *heads = jax.tree.leaves(outputs)
                losses = [
                    optax.softmax_cross_entropy_with_integer_labels(one, labels).mean()
                    for one in (logits, *heads)
                ]
                return losses[0] + AUXILIARY * sum(losses[1:]), new

            (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            updates, memory = optimizer.update(gradient, memory)
            return optax.apply_updates(params, updates), rest, memory, value

        self._state = (params, rest, optimizer.init(params))
        self._data = (images, labels)
        jitted = jax.jit(step, donate_argnums=(0, 1, 2))
        began = time.perf_counter()
        self.compiled = jitted.lower(*self._state, *self._data).compile()
        self.step_compile_s = time.perf_counter() - began
        infer = jax.jit(lambda variables, images: apply(variables, images, False)[0])
        self._infer = infer.lower(variables, images).compile()
        self._variables = jax.tree.map(jnp.copy, variables)

    def __call__(self, train: bool) -> None:
        if train:
            *self._state, value = self.compiled(*self._state, *self._data)
            jax.block_until_ready((self._state, value))
        else:
            jax.block_until_ready(self._infer(self._variables, self._data[0]))


def _flax_side(model, images, labels, dtype) -> JaxNetwork:
    def apply(variables, images, train):
        if not train:
            return model.apply(variables, images, train=False), None
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    images = images.astype(dtype)
    start = jax.jit(lambda key: model.init(key, jnp.asarray(images), train=True))
    return JaxNetwork(apply, start(jax.random.key(0)), images, labels)


def model(name: str):
    """Ours, in the form that the peers have."""
    if name == "googlenet":
        return torchvision_model("googlenet", auxiliary=True, dropout=0.0, auxiliary_dropout=0.0)
    if name == "resnet50":
        return ResNet50(num_classes=1000)
    return ResNet18(num_classes=1000, small_images=True)


def ours(name: str, images, labels, dtype) -> JaxNetwork:
    return _flax_side(model(name).clone(dtype=dtype), images, labels, dtype)


def slow_paths(name: str, images, labels, dtype) -> JaxNetwork:
    """Ours with the switch off."""
    with fast_paths(False):
        return ours(name, images, labels, dtype)


def flax(name: str, images, labels, dtype) -> JaxNetwork:
    if name == "googlenet":
        model = flax_networks.GoogLeNet(dtype=dtype)
    elif name == "resnet50":
        model = flax_networks.ResNet((3, 4, 6, 3), True, dtype=dtype)
    else:
        model = flax_networks.ResNet((2, 2, 2, 2), False, small_images=True, dtype=dtype)
    return _flax_side(model, images, labels, dtype)


def keras(name: str, images, labels, dtype) -> JaxNetwork:
    """`keras.applications.ResNet50` on JAX: version 1, with the strides in 1x1 convolutions, which
    is 6 % less work, and with biases."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if name != "resnet50" or dtype != jnp.float32:
        raise ImportError("keras.applications has it in float32 as ResNet50 alone")
    model = keras.applications.ResNet50(weights=None, classifier_activation=None)

    def apply(variables, images, train):
        outputs, state = model.stateless_call(
            variables["params"], variables["state"], images, training=train
        )
        return outputs, {"state": state}

    variables = {
        "params": [v.value for v in model.trainable_variables],
        "state": [v.value for v in model.non_trainable_variables],
    }
    return JaxNetwork(apply, variables, images, labels)


def torch_eager(name: str, images, labels, dtype):
    return _torch_side(name, images, labels, dtype, lambda network: network)


def torch_compiled(name: str, images, labels, dtype):
    import torch

    return _torch_side(name, images, labels, dtype, torch.compile)


def _torch_side(name: str, images, labels, dtype, prepare: Callable) -> Callable[[bool], None]:
    import torch

    from experiments.benchmarks import torch_networks

    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise ImportError("this torch has no CUDA")
    device = "cuda" if on_gpu else "cpu"
    fields = {"auxiliary": True} if name == "googlenet" else {}
    if name == "resnet18_cifar":
        fields = {"small_images": True}
    network = torch_networks.build(name.split("_")[0], **fields)
    network = network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.tensor(images, device=device).permute(0, 3, 1, 2)
    y = torch.tensor(labels, device=device)
    optimizer = torch.optim.SGD(network.parameters(), RATE, momentum=MOMENTUM)
    entropy = torch.nn.functional.cross_entropy
    half = torch.autocast(device, torch.bfloat16, enabled=dtype == jnp.bfloat16)
    modes = {mode: prepare(network) for mode in (True, False)}

    def side(train: bool) -> None:
        network.train(train)
        if train:
            optimizer.zero_grad()
            with half:
                outputs = modes[True](x)
                logits, heads = outputs if isinstance(outputs, tuple) else (outputs, ())
                loss = entropy(logits, y) + AUXILIARY * sum(entropy(head, y) for head in heads)
            loss.backward()
            optimizer.step()
        else:
            with torch.no_grad(), half:
                modes[False](x)
        if on_gpu:
            torch.cuda.synchronize()

    return side


PEERS = {
    "torch": torch_eager,
    "torch compiled": torch_compiled,
    "flax": flax,
    "keras": keras,
    "slow paths": slow_paths,
}

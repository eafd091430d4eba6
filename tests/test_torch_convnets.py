"""torchvision's networks, rebuilt from torch.nn, against ours with the same random weights."""

import functools

import jax
import numpy as np
import pytest

from nn_lib.interop import from_torch, to_torch, torchvision_model
from nn_lib.interop.torch_convnets import _resnet

pytestmark = [pytest.mark.slow, pytest.mark.parity, pytest.mark.usefixtures("both_paths")]

# (name, fields of ours, fields of torch's)
NETWORKS = [
    ("alexnet", {}, {}),
    ("vgg11_bn", {}, {}),
    ("vgg16", {}, {}),
    ("googlenet", {"auxiliary": True}, {}),
    ("googlenet", {}, {"auxiliary": False}),
    ("resnet18", {}, {}),
    ("resnet50", {}, {}),
]


@pytest.fixture(params=NETWORKS, ids=lambda row: row[0] + "_auxiliary" * bool(row[1]))
def pair(request, torch):
    """Our module, its variables from torch's random ones, and torch's network."""
    from experiments.benchmarks import torch_networks

    name, ours, theirs = request.param
    network = torch_networks.randomized(torch_networks.build(name, **theirs)).eval()
    module = torchvision_model(name, **ours)
    return module, from_torch(module, network.state_dict()), network


def images(size=224):
    return np.random.default_rng(0).normal(size=(2, size, size, 3))


def of_torch(torch, network, inputs):
    with torch.no_grad():
        return network(torch.tensor(inputs.transpose(0, 3, 1, 2)))


def test_logits_agree_and_the_way_back_is_exact(pair, torch):
    module, variables, network = pair
    inputs = images().astype(np.float32)
    expected = of_torch(torch, network, inputs).numpy()
    found = jax.jit(module.apply)(variables, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    back, original = to_torch(module, variables), network.state_dict()
    assert set(back) == set(original)
    for key, value in original.items():
        np.testing.assert_array_equal(back[key], value.numpy(), err_msg=key)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        expected = of_torch(torch, network.double(), images()).numpy()
        found = jax.jit(module.apply)(wide, images())
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * scale)


def test_googlenets_three_classifiers_agree_in_training(torch):
    from experiments.benchmarks import torch_networks

    network = torch_networks.randomized(torch_networks.build("googlenet").double()).train()
    module = torchvision_model("googlenet", auxiliary=True, dropout=0.0, auxiliary_dropout=0.0)
    with jax.enable_x64(True):
        variables = from_torch(module, network.state_dict())
        logits, heads = of_torch(torch, network, images())
        apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
        (ours, our_heads), _ = jax.jit(apply)(variables, images())
    for found, expected in zip((ours, *our_heads), (logits, *heads), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-9)


def test_every_layer_of_a_resnet_agrees(torch):
    from experiments.benchmarks import torch_networks

    network = torch_networks.randomized(torch_networks.build("resnet18")).double().eval()
    module, seen = torchvision_model("resnet18"), {}
    names = {ours: theirs for ours, theirs in _resnet(module) if hasattr_path(network, theirs)}
    for ours, theirs in names.items():
        layer = network.get_submodule(theirs)
        layer.register_forward_hook(lambda _, __, out, name=ours: seen.update({name: out}))
    of_torch(torch, network, images())
    with jax.enable_x64(True):
        variables = from_torch(module, network.state_dict())
        apply = functools.partial(module.apply, capture=tuple(seen))
        _, found = jax.jit(apply)(variables, images())
    assert len(found) == 41  # 20 convolutions, their norms, the linear layer
    for name, expected in seen.items():
        expected = expected.numpy()
        expected = expected.transpose(0, 2, 3, 1) if expected.ndim == 4 else expected
        atol = 1e-9 * np.abs(expected).max()
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=atol, err_msg=name)


def hasattr_path(network, name):
    try:
        return network.get_submodule(name) is not None
    except AttributeError:
        return False

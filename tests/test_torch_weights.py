"""State dicts of convnets, from files and mappings, and what is said of those that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.interop import (
    from_torch,
    read_state_dict,
    to_torch,
    torchvision_model,
    transform_input,
    write_state_dict,
)
from nn_lib.models import VGG, LeNet5
from nn_lib.recurrent import RNN, VanillaCell
from tests.golden.make import weights_for


@pytest.fixture(scope="module")
def resnet():
    """ResNet-18 of five classes, and a state dict of it in torch's names."""
    model = torchvision_model("resnet18", num_classes=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    names = {key: value.shape for key, value in to_torch(model, empty).items()}
    weights = {key: value.astype(np.float32) for key, value in weights_for(names).items()}
    return model, weights


def test_the_way_there_and_back_through_a_file_is_exact(resnet, tmp_path):
    model, weights = resnet
    write_state_dict(tmp_path / "weights.safetensors", weights)
    variables = from_torch(model, tmp_path / "weights.safetensors")
    assert set(variables) == {"params", "batch_stats"}
    kernel = variables["params"]["stage1"]["block1"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, weights["layer1.0.conv1.weight"].transpose(2, 3, 1, 0))
    back = to_torch(model, variables)
    tracked = {key for key in back if key.endswith("num_batches_tracked")}
    assert len(tracked) == 20 and set(back) - tracked == set(weights)
    for key, value in weights.items():
        np.testing.assert_array_equal(back[key], value)
        assert back[key].dtype == value.dtype
    # A mapping with what torch counts is taken as well, and half precision stays half.
    half = {key: value.astype(jnp.bfloat16) for key, value in weights.items()}
    half["bn1.num_batches_tracked"] = np.int64(3)
    assert from_torch(model, half)["params"]["conv1"]["kernel"].dtype == jnp.bfloat16


def test_one_message_lists_what_is_missing_unexpected_and_misshapen(resnet):
    model, weights = resnet
    broken = dict(weights)
    del broken["fc.bias"], broken["layer1.0.conv1.weight"]
    broken["head.weight"] = np.zeros(3)
    broken["bn1.weight"] = np.zeros(7)
    with pytest.raises(UserError) as error:
        from_torch(model, broken)
    said = str(error.value)
    missing = said.split("missing: ")[1].split(";")[0].split(", ")
    assert sorted(missing) == ["fc.bias", "layer1.0.conv1.weight"]
    assert "unexpected: head.weight" in said and "bn1.weight is [7], not [64]" in said
    with pytest.raises(UserError, match=r"unexpected: .*layer3.2.conv1.weight"):
        from_torch(model, {**weights, "layer3.2.conv1.weight": np.zeros(1)})


def test_a_model_without_its_head_takes_the_rest(resnet):
    model, weights = resnet
    variables = from_torch(model.clone(num_classes=None), weights)
    assert "linear" not in variables["params"] and "stage4" in variables["params"]


def test_variables_of_another_model_are_refused(resnet):
    model, weights = resnet
    variables = from_torch(model, weights)
    with pytest.raises(UserError, match=r"missing: .*stage3/block3/conv1/kernel.*unexpected: none"):
        to_torch(torchvision_model("resnet34", num_classes=5), variables)
    with pytest.raises(UserError, match=r"linear/kernel is \[512, 5\], not \[512, 7\]"):
        to_torch(model.clone(num_classes=7), variables)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tmp: read_state_dict(tmp / "no.safetensors"), "there is no file"),
        (lambda tmp: read_state_dict(tmp / "cut.safetensors"), "cannot be read as safetensors"),
        (lambda tmp: torchvision_model("resnet51"), "unknown; did you mean"),
        (lambda tmp: from_torch(LeNet5(), {}), "LeNet5 is none of them"),
        (
            lambda tmp: from_torch(torchvision_model("resnet18", pre_activation=True), {}),
            "no ResNet with pre_activation",
        ),
        (lambda tmp: to_torch(RNN(VanillaCell(2)), {}), "to_torch expects variables"),
        (
            lambda tmp: to_torch(torchvision_model("resnet18"), {"params": {}}),
            "do not fit ResNet; missing: batch_",
        ),
    ],
)
def test_what_cannot_be_read_is_named(call, message, resnet, tmp_path):
    write_state_dict(tmp_path / "whole.safetensors", {"a": np.zeros(100)})
    cut = (tmp_path / "whole.safetensors").read_bytes()[:200]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    with pytest.raises(UserError, match=message):
        call(tmp_path)


@pytest.mark.slow
@pytest.mark.parity
def test_torchs_own_files_are_read_weights_only(torch, tmp_path):
    layer = torch.nn.RNN(3, 2)
    torch.save(layer.state_dict(), tmp_path / "plain.pth")
    torch.save({"state_dict": layer.state_dict(), "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save(layer, tmp_path / "pickled.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "plain.pth").read_bytes()[:300])
    cell = RNN(VanillaCell(2))
    expected = from_torch(cell, layer.state_dict())
    for name in ("plain", "wrapped"):
        found = from_torch(cell, tmp_path / f"{name}.pth")
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    for name in ("pickled", "cut"):
        with pytest.raises(UserError, match="cannot be read as torch's weights"):
            read_state_dict(tmp_path / f"{name}.pth")
    half = torch.arange(4.0).bfloat16()
    torch.save({"w": half}, tmp_path / "half.pth")
    assert read_state_dict(tmp_path / "half.pth")["w"].dtype == jnp.bfloat16


def test_googlenets_inputs_move_from_imagenets_statistics_to_a_half():
    pixels = np.random.default_rng(0).uniform(size=(1, 2, 2, 3))
    normalised = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(transform_input(jnp.asarray(normalised)), pixels * 2 - 1, atol=1e-6)


def test_a_vgg_of_another_size_goes_there_and_back():
    model = VGG((1, 1), widths=(2, 3), hidden=4, num_classes=5)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    back = from_torch(model, to_torch(model, variables))
    jax.tree.map(np.testing.assert_array_equal, dict(variables), back)

"""Experiments as data: every config survives the way to JSON and back."""

import dataclasses
import functools
import importlib
import json
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from configs import mnist1d
from nn_lib.checks import UserError
from nn_lib.data import images
from nn_lib.models import MLP, ConvNet
from nn_lib.train import codec

FILES = sorted(file.stem for file in Path(configs.__file__).parent.glob("[!_]*.py"))
MODULES = [importlib.import_module(f"configs.{name}") for name in FILES]
CONFIGS = [(module, variant) for module in MODULES for variant in module.VARIANTS]


def there_and_back(value):
    return codec.decode(json.loads(json.dumps(codec.encode(value))))


def same(a, b) -> bool:
    """Equality that looks into partials, which compare by identity."""
    if isinstance(a, functools.partial):
        return isinstance(b, functools.partial) and (a.func, a.keywords) == (b.func, b.keywords)
    if dataclasses.is_dataclass(a):
        fields = [field.name for field in dataclasses.fields(a)]
        if isinstance(a, nn.Module):
            fields = [name for name in fields if name not in ("parent", "name")]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in fields)
    return a == b


@pytest.mark.parametrize(("module", "variant"), CONFIGS)
def test_every_config_round_trips(module, variant):
    config = module.get_config(variant)
    assert same(there_and_back(config), config)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        "text",
        (1, (2, 3)),
        nn.relu,
        jnp.tanh,
        jnp.bfloat16,
        ConvNet((3,), ((3, 3),), (1,), activation=nn.gelu, dtype=jnp.bfloat16),
        MLP(hidden=(), activation=nn.tanh),
    ],
    ids=range(9),
)
def test_values_round_trip(value):
    assert there_and_back(value) == value


def test_numpys_and_jaxs_dtypes_are_saved_alike():
    encoded = [codec.encode(d) for d in (jnp.float32, np.float32, np.dtype("float32"))]
    assert encoded == [{"dtype": "float32"}] * 3


def test_partials_keep_their_keywords():
    prepare = functools.partial(images.standardize, mean=0.5, std=(1.0, 2.0))
    found = there_and_back(prepare)
    assert found.func is images.standardize and found.keywords == prepare.keywords


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (MLP(activation=lambda x: x), r"experiment.activation is a lambda or a function inside"),
        (functools.partial(nn.relu, 3), r"experiment: bind functools.partial by keyword"),
        (object(), r"experiment holds a object, which cannot be saved"),
        ((1, object()), r"experiment\[1\] holds a object"),
    ],
)
def test_what_has_no_name_is_refused_by_its_field(value, message):
    with pytest.raises(UserError, match=message):
        codec.encode(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"function": "os:system"}, r"'os:system', outside the trusted packages nn_lib"),
        ({"class": "subprocess:Popen", "fields": {"args": "ls"}}, "outside the trusted packages"),
        ({"function": "nn_lib.models:Gone"}, r"'nn_lib.models:Gone', which is not there"),
        (
            {"class": "nn_lib.models.mlp:MLP", "fields": {"wide": 3}},
            r"not fit this code.*wide",
        ),
    ],
)
def test_data_that_is_not_ours_is_refused(data, message):
    with pytest.raises(UserError, match=message):
        codec.decode(data)


def test_differences_are_named_by_dotted_fields():
    before = codec.encode(mnist1d.get_config("cnn"))
    changed = mnist1d.get_config("cnn")
    changed.optimizer.learning_rate = 0.5
    changed.model = changed.model.clone(dropout=0.3)
    found = codec.differences(before, codec.encode(changed))
    assert found == {"optimizer.learning_rate": (0.01, 0.5), "model.dropout": (0.1, 0.3)}
    other = codec.differences(before, codec.encode(mnist1d.get_config("mlp")))
    assert list(other) == ["model"] and other["model"][1] == "nn_lib.models.mlp:MLP"


def test_two_configs_share_no_state():
    first = mnist1d.get_config("cnn")
    first.optimizer.learning_rate = 7.0
    first.data.name = "other"
    assert mnist1d.get_config("cnn").optimizer.learning_rate == 0.01
    assert mnist1d.get_config("cnn").data.name == "mnist1d"

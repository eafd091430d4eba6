"""What holds for every module of the table."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nn_lib.layers
import nn_lib.models
import nn_lib.recurrent
from nn_lib.models import AlexNet, GoogLeNet, MeanOverTime
from nn_lib.recurrent import BahdanauCell, LuongCell
from nn_lib.train import codec
from tests.module_table import KEY, MODULES, WITHOUT_PARAMETERS


@functools.cache
def variables_of(name):
    module, inputs = MODULES[name]
    return jax.jit(module.init)(KEY, inputs)


def outputs_and_gradient(module, variables, inputs):
    """Its outputs, and the gradient of a weighted sum of them for the parameters."""
    rest = {k: v for k, v in variables.items() if k != "params"}

    def loss(params):
        outputs = outputs_of(module.apply({"params": params, **rest}, inputs))
        return (outputs * jax.random.normal(KEY, outputs.shape)).sum(), outputs

    (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(variables.get("params", {}))
    return outputs, gradient


traced = []


@functools.cache
def jitted(name):
    """One program of a module for the tests here, and for those of its precision."""

    def found(variables, inputs):
        traced.append(name)
        return outputs_and_gradient(MODULES[name][0], variables, inputs)

    return jax.jit(found)


every_module = pytest.mark.parametrize("name", MODULES)


def outputs_of(result):
    """The array of outputs; sequence layers and models also return their carry."""
    return max(jax.tree.leaves(result), key=lambda leaf: leaf.size)


def test_the_table_holds_every_public_module():
    public = set()
    for part in (nn_lib.layers, nn_lib.models, nn_lib.recurrent):
        public |= {getattr(part, name) for name in part.__all__}
    elsewhere = {AlexNet, GoogLeNet}  # large, in test_convnets.py
    elsewhere |= {BahdanauCell, LuongCell, MeanOverTime}  # of two inputs, in test_text_models.py
    modules = {thing for thing in public if inspect.isclass(thing)} - elsewhere
    used = set()
    for module, _ in MODULES.values():
        used |= {codec.decode({"function": c}) for c in classes_in(codec.encode(module))}
    assert modules <= used


def classes_in(encoded):
    if isinstance(encoded, dict):
        own = [encoded["class"]] if "class" in encoded else []
        return own + [c for value in encoded.values() for c in classes_in(value)]
    return [c for item in encoded for c in classes_in(item)] if isinstance(encoded, list) else []


@every_module
def test_it_survives_the_codec_with_the_same_parameters(name):
    module, inputs = MODULES[name]
    copy = codec.decode(codec.encode(module))
    assert codec.encode(copy) == codec.encode(module)
    ours, theirs = (jax.eval_shape(m.init, KEY, inputs) for m in (module, copy))
    assert ours == theirs


@every_module
def test_an_example_does_not_depend_on_its_neighbours_and_one_trace_serves_many_calls(name):
    inputs = MODULES[name][1]
    together, _ = jitted(name)(variables_of(name), inputs)
    others = inputs[:, ::-1] if jnp.issubdtype(inputs.dtype, jnp.integer) else 2 * inputs + 1
    again, _ = jitted(name)(variables_of(name), others.at[1].set(inputs[1]))
    np.testing.assert_allclose(together[1], again[1], rtol=1e-4, atol=1e-5)
    assert (together[0] != again[0]).any()
    assert traced.count(name) == 1 and together.dtype == jnp.float32


@pytest.mark.parametrize("name", [n for n in MODULES if n not in WITHOUT_PARAMETERS])
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(name):
    _, gradient = jitted(name)(variables_of(name), MODULES[name][1])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        where = jax.tree_util.keystr(path)
        without_condition = "condition_kernel" in where  # the default condition is zero
        assert jnp.isfinite(leaf).all(), where
        assert (jnp.abs(leaf).max() > 0) != without_condition, where


SEQUENCES = [
    name
    for name, (module, _) in MODULES.items()
    if "reset" in inspect.signature(type(module).__call__).parameters
]


@pytest.mark.parametrize("name", SEQUENCES)
def test_masked_steps_anywhere_change_neither_carry_nor_loss_nor_gradient(name):
    """Three of them at the end of one sequence, amid another, at the start of the third."""
    module, inputs = MODULES[name]
    mask = np.ones((3, 11), bool)
    mask[0, 8:] = mask[1, [2, 5, 6]] = mask[2, :3] = False
    garbage = jnp.ones((), inputs.dtype) * 3  # a token or a number
    longer = jnp.broadcast_to(garbage, (3, 11, *inputs.shape[2:]))
    longer = longer.at[np.nonzero(mask)].set(inputs.reshape(24, *inputs.shape[2:]))
    rest = {k: v for k, v in variables_of(name).items() if k != "params"}

    def loss(params, x, on):
        result = module.apply({"params": params, **rest}, x, mask=on)
        outputs = outputs_of(result)
        carry = [leaf for leaf in jax.tree.leaves(result) if leaf is not outputs]
        if outputs.shape[:2] == on.shape:  # an output for every step; else one for a sequence
            outputs = jnp.where(on[..., None], outputs, 0).sum(1)
        return sum(jnp.sin(leaf).sum() for leaf in (outputs, *carry)), carry

    @jax.jit
    def both(params):
        differentiate = jax.value_and_grad(loss, has_aux=True)
        return differentiate(params, inputs, jnp.ones((3, 8), bool)), differentiate(
            params, longer, jnp.asarray(mask)
        )

    plain, masked = both(variables_of(name)["params"])
    assert jax.tree.leaves(plain[0][1])  # the carry
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, masked)

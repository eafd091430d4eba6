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
from nn_lib.train import codec
from tests.module_table import KEY, MODULES


@functools.cache
def variables_of(name):
    module, inputs = MODULES[name]
    return jax.jit(module.init)(KEY, inputs)


every_module = pytest.mark.parametrize("name", MODULES)


def outputs_of(result):
    """The array of outputs; sequence layers and models also return their carry."""
    return max(jax.tree.leaves(result), key=lambda leaf: leaf.size)


def test_the_table_holds_every_public_module():
    public = set()
    for part in (nn_lib.layers, nn_lib.models, nn_lib.recurrent):
        public |= {getattr(part, name) for name in part.__all__}
    modules = {thing for thing in public if inspect.isclass(thing)}
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
    theirs = jax.jit(copy.init)(KEY, inputs)
    jax.tree.map(np.testing.assert_array_equal, variables_of(name), theirs)


@every_module
def test_jit_changes_nothing_and_one_trace_serves_many_calls(name):
    module, inputs = MODULES[name]
    variables = variables_of(name)
    traces = []

    @jax.jit
    def apply(variables, inputs):
        traces.append(1)
        return outputs_of(module.apply(variables, inputs))

    expected = outputs_of(module.apply(variables, inputs))
    for _ in range(2):
        np.testing.assert_allclose(apply(variables, inputs), expected, rtol=1e-4, atol=1e-5)
    assert len(traces) == 1 and expected.dtype == jnp.float32


@every_module
def test_an_example_does_not_depend_on_its_neighbours(name):
    module, inputs = MODULES[name]
    apply = jax.jit(lambda inputs: outputs_of(module.apply(variables_of(name), inputs)))
    together, alone = apply(inputs), apply(inputs[1:2])
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)


@every_module
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(name):
    module, inputs = MODULES[name]
    variables = variables_of(name)
    rest = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    @jax.grad
    def gradient(params):
        outputs = outputs_of(module.apply({"params": params, **rest}, inputs))
        return (outputs * jax.random.normal(KEY, outputs.shape)).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        where = jax.tree_util.keystr(path)
        without_condition = "condition_kernel" in where  # the default condition is zero
        assert jnp.isfinite(leaf).all(), where
        assert (jnp.abs(leaf).max() > 0) != without_condition, where

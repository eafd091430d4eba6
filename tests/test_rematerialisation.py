"""Rematerialisation changes neither parameters nor results, and does save memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.analysis.training_memory import training_memory
from nn_lib.checks import UserError
from nn_lib.models import VGG, CifarResNet, GoogLeNet, ResNet50
from nn_lib.train.sharding import Layout, MeshConfig
from tests.module_table import KEY

NETWORKS = {
    "resnet": CifarResNet(8, "B", width=2, num_classes=5),
    "vgg": VGG((1, 2), widths=(2, 3), hidden=4, pooled=2, num_classes=5, batch_norm=True),
    "googlenet": GoogLeNet(num_classes=5, batch_norm=True, adaptive=True, pool4=2),
}


def images(name):
    size = 64 if name == "googlenet" else 32
    return jax.random.normal(KEY, (2, size, size, 3))


def gradient(model, variables, x):
    @jax.jit
    def differentiate(variables):
        def loss(params):
            apply = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": KEY}}
            logits, state = model.apply({**variables, "params": params}, x, **apply)
            return jnp.sin(logits).sum(), state

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return differentiate(variables)


def recomputed(model, variables, x):
    """How many convolutions, of inputs and not of gradients, the program of the gradient has."""
    program = jax.make_jaxpr(lambda v: gradient(model, v, x))(variables)
    return str(program).count(" convolution[")


SLOW = pytest.param("googlenet", marks=pytest.mark.slow)  # a minute to compile


@pytest.mark.parametrize("name", ["resnet", "vgg", SLOW])
def test_parameters_loss_gradients_and_statistics_are_those_without(name, x64):
    plain, x = NETWORKS[name], images(name).astype(jnp.float64)
    variables = jax.jit(plain.init)(KEY, x)
    model = plain.clone(remat="full")
    assert jax.eval_shape(model.init, KEY, x) == jax.eval_shape(plain.init, KEY, x)
    ours, theirs = (gradient(m, variables, x) for m in (model, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)


@pytest.mark.parametrize("name", ["resnet", "vgg", SLOW])
def test_full_computes_convolutions_again_and_dots_does_not(name):
    plain, x = NETWORKS[name], images(name)
    variables = jax.eval_shape(plain.init, KEY, x)
    none, full, dots = (
        recomputed(plain.clone(remat=policy), variables, x) for policy in ("none", "full", "dots")
    )
    assert full > dots == none


def test_layers_within_blocks_can_still_be_captured():
    plain, x = NETWORKS["resnet"], images("resnet")
    variables = jax.jit(plain.init)(KEY, x)
    capture = ("stage2/block1/conv1",)
    ours = plain.clone(remat="full").apply(variables, x, capture=capture)
    theirs = plain.apply(variables, x, capture=capture)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_an_unknown_policy_is_named():
    with pytest.raises(UserError, match="remat 'ful' is unknown; did you mean full"):
        CifarResNet(8, remat="ful").init(KEY, images("resnet"))


def test_what_a_run_compiles_is_not_undone_by_the_compiler():
    """Without its option, XLA's CPU compiler merges both computations of a block."""
    x = images("resnet")
    variables = jax.jit(NETWORKS["resnet"].init)(KEY, x)

    def step(variables, x):
        return gradient(NETWORKS["resnet"].clone(remat="full"), variables, x), {}

    compiled = Layout.of(MeshConfig(data=1)).jit_step(step, variables).lower(variables, x).compile()
    assert compiled.as_text().count(" opt-barrier(") > 0


@pytest.mark.slow
def test_resnet50_needs_at_most_half_of_the_activation_memory():
    """At 224 pixels, batch 8: the compiler's own figures."""
    none, full = (training_memory(ResNet50(remat=policy), 8, 224) for policy in ("none", "full"))
    print(f"none {none.temp_size_in_bytes:,}, full {full.temp_size_in_bytes:,} bytes")
    assert full.temp_size_in_bytes <= 0.5 * none.temp_size_in_bytes
    assert full.argument_size_in_bytes == none.argument_size_in_bytes

"""Every module computes in bfloat16 with float32 parameters, and close to float32."""

import functools

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.layers import fast_paths, with_dtype
from nn_lib.layers.attention import attention_weights
from nn_lib.models import VGG16, AlexNet, CharLM, GoogLeNet, MultiHead, ResNet50
from nn_lib.recurrent import RNN, GRUCell, LSTMCell, Stacked
from nn_lib.train import codec, fit
from tests.module_table import KEY, MODULES, WITHOUT_PARAMETERS
from tests.small_runs import final_leaves, text_experiment
from tests.test_module_table import jitted, outputs_and_gradient, variables_of

pytestmark = pytest.mark.usefixtures("undrawn")
every_module = pytest.mark.parametrize("name", MODULES)
PRODUCTS = ("dot_general", "conv_general_dilated")


@functools.cache
def in_bfloat16(name):
    return with_dtype(MODULES[name][0], jnp.bfloat16)


def distance(ours, theirs):
    """Relative, in the norm of all that is there."""
    ours, theirs = (
        np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (ours, theirs)
    )
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@every_module
def test_parameters_stay_float32_and_are_those_of_float32(name):
    """Initial values do not depend on the precision of the computation."""
    ours = jax.eval_shape(in_bfloat16(name).init, KEY, MODULES[name][1])
    theirs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables_of(name)
    )
    assert ours == theirs
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ours))


@every_module
def test_outputs_and_gradients_are_finite_and_near_those_of_float32(name):
    inputs, variables = MODULES[name][1], variables_of(name)
    theirs = jitted(name)(variables, inputs)
    if jnp.issubdtype(inputs.dtype, jnp.floating):  # of numbers that bfloat16 has
        inputs = inputs.astype(jnp.bfloat16)
    ours = jax.jit(functools.partial(outputs_and_gradient, in_bfloat16(name)))(variables, inputs)
    for leaf in jax.tree.leaves(ours):
        assert jnp.isfinite(leaf.astype(jnp.float32)).all()
    assert distance(ours[0], theirs[0]) < 0.03
    if name not in WITHOUT_PARAMETERS:
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ours[1]))
        assert distance(ours[1], theirs[1]) < 0.1


@every_module
def test_every_product_is_of_bfloat16(name):
    """What takes the time and the memory: the operands of products and convolutions."""
    inputs = MODULES[name][1]
    if jnp.issubdtype(inputs.dtype, jnp.floating):
        inputs = inputs.astype(jnp.bfloat16)
    with fast_paths(False):
        program = jax.make_jaxpr(in_bfloat16(name).apply)(variables_of(name), inputs)
    found = list(products(program.jaxpr))
    assert found or name in (*WITHOUT_PARAMETERS, *ELEMENTWISE)
    for equation in found:
        assert {v.aval.dtype for v in equation.invars} == {jnp.dtype(jnp.bfloat16)}, equation


ELEMENTWISE = ("subsampling", "batch_norm", "layer_norm", "group_norm", "instance_norm")


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


@pytest.mark.parametrize("name", ["resnet", "resnet_v2", "convnet_2d", "vgg"])
def test_batch_statistics_are_float32_and_near_those_of_float32(name):
    variables = variables_of(name)
    inputs = MODULES[name][1]

    def train(module):
        rngs = {"dropout": KEY}
        apply = functools.partial(module.apply, train=True, mutable=["batch_stats"], rngs=rngs)
        return jax.jit(apply)(variables, inputs)

    (ours, state), (theirs, expected) = train(in_bfloat16(name)), train(MODULES[name][0])
    assert ours.dtype == theirs.dtype == jnp.float32  # logits, for the loss
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    if "batch_stats" in variables:
        assert distance(state, expected) < 0.01


def test_a_model_passes_its_precision_on_to_what_it_is_handed():
    stack = Stacked([RNN(LSTMCell(4)), RNN(LSTMCell(4, dtype=jnp.float32))])
    first, second = with_dtype(stack, jnp.bfloat16).layers
    assert first.cell.dtype == jnp.bfloat16 and second.cell.dtype == jnp.float32
    model = CharLM(7, LSTMCell(4), dtype=jnp.bfloat16)
    assert model.cell.dtype == jnp.bfloat16
    # A state adds up over the steps, which bfloat16 would lose: it is float32 whatever the dtype.
    assert jax.tree.leaves(model.initialize_carry(2))[0].dtype == jnp.float32
    model = codec.decode(codec.encode(model))
    assert model.cell.dtype == jnp.bfloat16
    with pytest.raises(AttributeError):  # heads are no modules; nothing is invented
        MultiHead(LSTMCell(3), heads=(("a", 2),), dtype=jnp.bfloat16).heads[0].dtype  # noqa: B018


def test_a_precision_set_on_the_command_line_reaches_every_part():
    """As `--config.model.dtype=bfloat16` does: by its name, after the model was made."""
    model = CharLM(7, LSTMCell(4))
    model.dtype = "bfloat16"
    assert model.clone().cell.dtype == "bfloat16"
    program = jax.make_jaxpr(lambda: model.init_with_output(KEY, jnp.zeros((2, 3), int)))()
    forward = [e for e in products(program.jaxpr) if e.outvars[0].aval.dtype == jnp.bfloat16]
    assert len(forward) >= 3  # the input's, the recurrent and the output's


def test_a_run_in_bfloat16_keeps_float32_parameters_and_a_float32_state(tmp_path):
    text = tmp_path / "text"
    text.write_text("the cat sat on the mat. " * 60)
    model = CharLM(cell=GRUCell(8))
    model.dtype = "bfloat16"
    summary = fit(text_experiment(text, model=model), tmp_path / "run", quiet=True)
    assert np.isfinite(summary["validation"]["loss"])
    leaves = final_leaves(tmp_path / "run", 6)
    assert {leaves[path].dtype for path in leaves if "params" in path} == {jnp.dtype("float32")}
    assert {leaves[path].dtype for path in leaves if "carry" in path} == {jnp.dtype("float32")}


def test_attention_weights_of_half_precision_are_those_of_their_float32_softmax():
    scores = jax.random.normal(KEY, (2, 300)).astype(jnp.bfloat16)
    mask = jnp.arange(300) < 290
    ours = attention_weights(scores, jnp.stack([mask, mask]))
    expected = jax.nn.softmax(jnp.where(mask, scores.astype(jnp.float32), -jnp.inf))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=2**-8)


@pytest.mark.parametrize("kind", [AlexNet, GoogLeNet, ResNet50, VGG16])
def test_every_product_of_the_large_networks_is_of_bfloat16_and_their_logits_float32(kind):
    model = kind(dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.bfloat16)
    variables = jax.eval_shape(model.init, KEY, images)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    with fast_paths(False):
        program = jax.make_jaxpr(model.apply)(variables, images)
    assert program.out_avals[0].dtype == jnp.float32
    for equation in products(program.jaxpr):
        assert {v.aval.dtype for v in equation.invars} == {jnp.dtype(jnp.bfloat16)}, equation

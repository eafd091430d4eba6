"""Our functions against torch's outputs: the golden file everywhere, torch itself where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nn_lib.interop import from_torch, to_torch, torchvision_model
from nn_lib.layers import convolve
from nn_lib.optim import OptimizerConfig, build_optimizer
from nn_lib.recurrent import RNN, GRUCell, LSTMCell, VanillaCell
from tests.golden import make

GOLDEN = dict(np.load(make.FILE))
# torch's row blocks (i, f, g, o) in our order (i, f, o, g); r, z, n agree.
CELLS = {
    "RNN": (VanillaCell(4), (0,)),
    "LSTM": (LSTMCell(4), (0, 1, 3, 2)),
    "GRU": (GRUCell(4, reset_after=True), (0, 1, 2)),
}


@pytest.mark.slow
@pytest.mark.parity
def test_the_golden_file_is_what_torch_computes(torch):
    live = make.compute(torch)
    assert set(live) == set(GOLDEN)
    for name, value in live.items():
        np.testing.assert_allclose(value, GOLDEN[name], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_layers_give_torchs_outputs(x64, name):
    cell, blocks = CELLS[name]
    kernel, recurrent, bias_ih, bias_hh = (
        np.concatenate([np.split(w, len(blocks))[index] for index in blocks])
        for w in make.recurrent_weights(len(blocks))
    )
    params = {"kernel": kernel.T, "recurrent_kernel": recurrent.T, "bias": bias_ih + bias_hh}
    if name == "GRU":
        inner = np.concatenate([bias_hh[:8], np.zeros(4)])
        params |= {"bias": bias_ih + inner, "bias_hn": bias_hh[8:]}
    _, outputs = RNN(cell).apply({"params": {"cell": params}}, jnp.asarray(make.INPUTS))
    np.testing.assert_allclose(outputs, GOLDEN[name], rtol=1e-10)


def test_convolution_gives_torchs_output(x64, both_paths):
    found = convolve(make.IMAGES, make.KERNEL, strides=2, padding=1, groups=2)
    np.testing.assert_allclose(found, GOLDEN["conv2d"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "both_paths", [True, pytest.param(False, marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "googlenet",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("vgg11_bn", "alexnet")),
    ],
)
def test_convnets_give_torchs_logits(x64, both_paths, name):
    model = torchvision_model(name, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(0.0, leaf.shape), shapes)
    names = {key: value.shape for key, value in to_torch(model, empty).items()}
    variables = from_torch(model, make.weights_for(names))
    logits = jax.jit(model.apply)(variables, make.PICTURES)
    np.testing.assert_allclose(logits, GOLDEN[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_fifty_steps_end_where_torchs_do(x64, name):
    optimizer, _ = build_optimizer(OptimizerConfig(name=name, learning_rate=0.03))
    point = jnp.linspace(-1, 1, 6)
    state = optimizer.init(point)
    for step in range(50):
        updates, state = optimizer.update(jnp.asarray(make.filler((6,), 7 * step)), state, point)
        point = optax.apply_updates(point, updates)
    np.testing.assert_allclose(point, GOLDEN[name], rtol=1e-10)

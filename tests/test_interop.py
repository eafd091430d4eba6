"""Torch's recurrent layers: weights in and out, and live parity of values and all gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.checks import UserError
from nn_lib.interop import from_torch, to_torch
from nn_lib.recurrent import (
    RNN,
    Bidirectional,
    GRUCell,
    LSTMCell,
    MUT3Cell,
    Stacked,
    VanillaCell,
    lengths_to_mask,
)

# kind: (torch's class, its further arguments, our cell)
KINDS = {
    "tanh": ("RNN", {}, VanillaCell(4)),
    "relu": ("RNN", {"nonlinearity": "relu"}, VanillaCell(4, activation=jax.nn.relu)),
    "lstm": ("LSTM", {}, LSTMCell(4)),
    "lstm_projected": ("LSTM", {"proj_size": 3}, LSTMCell(4, projection=3)),
    "gru": ("GRU", {}, GRUCell(4, reset_after=True)),
    "gru_double_bias": ("GRU", {}, GRUCell(4, reset_after=True, double_bias=True)),
}


def stack_of(cell, layers, both_ways):
    def layer():
        forward = RNN(cell.clone())
        return Bidirectional(forward, RNN(cell.clone(), reverse=True)) if both_ways else forward

    return Stacked([layer() for _ in range(layers)])


def filler_state(kind, layers, both_ways, width=5):
    """A state dict of torch's names and shapes from a fixed generator, without torch."""
    cell = KINDS[kind][2]
    rng = np.random.default_rng(0)
    rows = {"RNN": 4, "LSTM": 16, "GRU": 12}[KINDS[kind][0]]
    out = getattr(cell, "projection", 0) or 4
    state = {}
    for layer in range(layers):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 1 + both_ways]:
            below = out * (1 + both_ways) if layer else width
            shapes = {"weight_ih": (rows, below), "weight_hh": (rows, out)}
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if kind == "lstm_projected":
                shapes["weight_hr"] = (3, 4)
            state |= {n + suffix: rng.uniform(-0.5, 0.5, shape) for n, shape in shapes.items()}
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back_as_the_same_function_in_the_tree_that_init_makes(kind):
    model, state = stack_of(KINDS[kind][2], 2, True), filler_state(kind, 2, True)
    variables = from_torch(model, state)
    made = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 2, 5)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, made)
    back = to_torch(model, variables)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}
    for name in state:
        if name.startswith("weight"):
            np.testing.assert_array_equal(back[name], state[name])
    jax.tree.map(np.testing.assert_array_equal, from_torch(model, back), variables)


def test_without_biases_they_are_zero():
    state = {k: v for k, v in filler_state("lstm", 1, False).items() if "bias" not in k}
    params = from_torch(RNN(LSTMCell(4)), state)["params"]["cell"]
    np.testing.assert_array_equal(params["bias"], np.zeros(16))


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (RNN(LSTMCell(4)), {"bias_hh_l0": None}, "missing: bias_hh_l0; unexpected: none"),
        (
            RNN(LSTMCell(4)),
            {"weight_ih_l1": np.zeros(3)},
            "missing: none; unexpected: weight_ih_l1",
        ),
        (RNN(LSTMCell(4)), {"weight_hh_l0": np.zeros((16, 3))}, r"is \[16, 3\], not \[16, 4\]"),
        (RNN(MUT3Cell(4)), {}, "it has not this MUT3Cell"),
        (RNN(GRUCell(4)), {}, r"GRUCell\(reset_after=True\); it has not this GRUCell"),
        (RNN(LSTMCell(4), zoneout=0.1), {}, "neither zoneout nor a learned state"),
        (Stacked([RNN(LSTMCell(4))], residual=True), {}, "no residual connections"),
        (Stacked([RNN(LSTMCell(4)), RNN(LSTMCell(5))]), {}, "layer 1 differs from layer 0"),
        (RNN(LSTMCell(4), reverse=True), {}, r"layer 0 is another: RNN\(reverse=True\)"),
    ],
)
def test_what_does_not_fit_is_named(model, change, message):
    state = filler_state("lstm", 1, False) | change
    with pytest.raises(UserError, match=message):
        from_torch(model, {k: v for k, v in state.items() if v is not None})


FLAX = [
    (nn.OptimizedLSTMCell(4), LSTMCell(4), "ifog"),
    (nn.GRUCell(4), GRUCell(4, reset_after=True), "rzn"),
    (nn.SimpleCell(4), VanillaCell(4), [""]),
]


@pytest.mark.parametrize(("theirs", "ours", "gates"), FLAX)
def test_flaxs_cells_have_the_documented_map(x64, theirs, ours, gates):
    x, rng = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3))), np.random.default_rng(1)
    layer = nn.RNN(theirs.clone(param_dtype=jnp.float64), return_carry=True)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]["cell"]
    cell = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
    of = {
        name: jnp.concatenate([cell[side + gate]["kernel"] for gate in gates], axis=1)
        for name, side in (("kernel", "i"), ("recurrent_kernel", "h"))
    }
    biased = "h" if isinstance(ours, LSTMCell) else "i"
    of["bias"] = jnp.concatenate([cell[biased + gate]["bias"] for gate in gates])
    if isinstance(ours, GRUCell):
        of["bias_hn"] = cell["hn"]["bias"]
    expected = layer.apply({"params": {"cell": cell}}, x)
    found = RNN(ours.clone(param_dtype=jnp.float64)).apply({"params": {"cell": of}}, x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


LIVE = [
    (kind, layers, both_ways)
    for kind in KINDS
    for layers in (1, 2, 3)
    for both_ways in (False, True)
]


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize(("kind", "layers", "both_ways"), LIVE)
def test_values_and_all_gradients_of_packed_sequences_equal_torchs(
    x64, torch, kind, layers, both_ways
):
    name, arguments, cell = KINDS[kind]
    theirs = getattr(torch.nn, name)(
        5, 4, num_layers=layers, bidirectional=both_ways, batch_first=True,
        dtype=torch.float64, **arguments
    )  # fmt: skip
    state = filler_state(kind, layers, both_ways)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    model = stack_of(cell, layers, both_ways)
    variables = from_torch(model, state)
    rng = np.random.default_rng(1)
    lengths, inputs = [6, 2, 4], rng.normal(size=(3, 6, 5))
    passes, out = layers * (1 + both_ways), getattr(cell, "projection", 0) or 4
    h_0, c_0 = rng.normal(size=(passes, 3, out)), rng.normal(size=(passes, 3, 4))
    weight = rng.normal(size=(3, 6, out * (1 + both_ways)))
    weight_h, weight_c = rng.normal(size=h_0.shape), rng.normal(size=c_0.shape)

    def loss(variables, inputs, h_0, c_0):
        carries = [(c, h) if name == "LSTM" else h for c, h in zip(c_0, h_0)]
        if both_ways:
            carries = list(zip(carries[::2], carries[1::2]))
        mask = lengths_to_mask(jnp.array(lengths), 6)
        last, outputs = model.apply(variables, inputs, mask=mask, initial_carry=tuple(carries))
        leaves = jax.tree.leaves(last)
        h_n = jnp.stack(leaves[1::2] if name == "LSTM" else leaves)
        total = (outputs * weight).sum() + (h_n * weight_h).sum()
        return total + ((jnp.stack(leaves[::2]) * weight_c).sum() if name == "LSTM" else 0.0)

    value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(variables, inputs, h_0, c_0)

    x, h, c = (torch.tensor(a, requires_grad=True) for a in (inputs, h_0, c_0))
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, lengths, batch_first=True, enforce_sorted=False
    )
    packed, last = theirs(packed, (h, c) if name == "LSTM" else h)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=6)
    h_n, c_n = last if name == "LSTM" else (last, None)
    total = (outputs * torch.tensor(weight)).sum() + (h_n * torch.tensor(weight_h)).sum()
    if name == "LSTM":
        total = total + (c_n * torch.tensor(weight_c)).sum()
    total.backward()

    def close(ours, their):
        np.testing.assert_allclose(ours, their, rtol=1e-10, atol=1e-12)

    close(value, total.item())
    close(gradient[1], x.grad)
    close(gradient[2], h.grad)
    if name == "LSTM":
        close(gradient[3], c.grad)
    ours = to_torch(model, gradient[0])
    for parameter, their in theirs.named_parameters():
        # Our single bias has the gradient of either; to_torch gives it as the first.
        if parameter.startswith("bias_hh") and name != "GRU":
            continue
        expected = their.grad.numpy()
        if parameter.startswith("bias_hh") and kind == "gru":
            expected = np.concatenate([np.zeros(8), expected[8:]])
        close(ours[parameter], expected)

"""Counts of any Flax model, convnet or recurrent, against counting by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from nn_lib.analysis import googlenet_table, summarize
from nn_lib.checks import UserError
from nn_lib.layers import Conv, ConvTranspose, ConvUnit, LocallyConnected
from nn_lib.models import CharLM
from nn_lib.recurrent import RNN, Bidirectional, GRUCell, LSTMCell, NASCell, Stacked, VanillaCell


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Plain(nn.Module):
    """A convnet that knows nothing of us."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(4, (3, 3), name="first")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Conv(8, (3, 3), strides=2, name="second")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(5, name="last")(x.reshape(x.shape[0], -1))


def test_a_plain_flax_convnet():
    summary = summarize(Plain(), floats(2, 16, 16, 3))
    rows = {row.path: row for row in summary.rows}
    assert rows["first"].macs == 2 * 16 * 16 * 4 * 9 * 3
    assert rows["second"].macs == 2 * 4 * 4 * 8 * 9 * 4
    assert rows["last"].macs == 2 * 4 * 4 * 8 * 5
    assert rows["first"].parameters == 3 * 9 * 4 + 4 and rows["BatchNorm_0"].parameters == 8
    # 3, then 4 after the pool, then 3 more steps of 2 pixels; the dense layer sees 3 more of 4.
    assert rows["first"].receptive_field == 3 and rows["second"].receptive_field == 8
    assert (rows["second"].stride, rows["last"].receptive_field) == (4, 20)
    assert summary.activations == 2 * (16 * 16 * 4 + 4 * 4 * 8 + 5)
    assert summary.parameter_bytes == 4 * summary.parameters
    trained = summarize(Plain(), floats(2, 16, 16, 3), train=True)
    assert (trained.macs, trained.parameters) == (summary.macs, summary.parameters)


@pytest.mark.parametrize(
    ("layer", "per_step"),
    [
        (RNN(LSTMCell(16)), 4 * 16 * (8 + 16)),
        (nn.RNN(nn.OptimizedLSTMCell(16)), 4 * 16 * (8 + 16)),
        (RNN(LSTMCell(16, projection=4)), 4 * 16 * (8 + 4) + 16 * 4),
        (RNN(GRUCell(16), chunk=4), 3 * 16 * (8 + 16)),
        (RNN(VanillaCell(16), reverse=True), 16 * (8 + 16)),
        (RNN(NASCell(16)), 8 * 16 * (8 + 16)),
        (Bidirectional(RNN(GRUCell(3)), RNN(GRUCell(3), reverse=True)), 2 * 3 * 3 * (8 + 3)),
        (Stacked([RNN(GRUCell(4)), RNN(VanillaCell(5))]), 3 * 4 * (8 + 4) + 5 * (4 + 5)),
    ],
)
def test_a_recurrent_layer_takes_its_products_times_the_steps(layer, per_step):
    assert summarize(layer, floats(2, 10, 8)).macs == 2 * 10 * per_step


def test_a_recurrent_models_table():
    summary = summarize(CharLM(7, LSTMCell(16)), jax.ShapeDtypeStruct((2, 10), jnp.int32))
    recurrent = [row for row in summary.rows if row.kind == "RNN"]
    assert [row.activations for row in recurrent] == [2 * 10 * 16]
    assert "multiply-adds" in str(summary) and "CharLM: " in str(summary)
    assert all(row.receptive_field is None for row in summary.rows)


def test_windows_of_other_kinds():
    dilated = summarize(Conv(2, (3,), dilation=4), floats(1, 20, 1))
    assert dilated.rows[0].receptive_field == 9
    own = summarize(LocallyConnected(1, (3, 3), strides=2, use_bias=False), floats(1, 9, 9, 1))
    assert (own.macs, own.parameters, own.rows[0].receptive_field) == (16 * 9, 16 * 9, 3)
    unit = summarize(ConvUnit(4, (3, 3), batch_norm=True), floats(1, 8, 8, 2))
    assert [row.path for row in unit.rows] == ["conv", "norm"]
    # Two convolutions of 3 see 5, three 7.
    for depth, sees in ((2, 5), (3, 7)):
        stack = nn.Sequential([Conv(1, (3, 3)) for _ in range(depth)])
        assert summarize(stack, floats(1, 9, 9, 1)).rows[-1].receptive_field == sees


class Odd(nn.Module):
    """Two sizes through one layer, a random stream of its own, a flag, a gate, a transposed one."""

    @nn.compact
    def __call__(self, x, deep: bool, *, scale=None):
        shared = nn.Conv(4, (3, 3), name="shared")
        y = shared(x)
        shared(x[:, ::2, ::2])
        y = y + jax.random.normal(self.make_rng("noise"), y.shape)
        y = y * nn.sigmoid(y.mean((1, 2), keepdims=True))
        y = nn.GroupNorm(num_groups=2, name="norm")(y)
        y = nn.Conv(4, (3, 3), name="after")(y) if deep else y
        y = ConvTranspose(2, (3, 3), strides=2, padding=1, name="larger")(y)
        return y if scale is None else y * scale

    def encode(self, x):
        return x @ jnp.ones((x.shape[-1], 5))


def test_models_that_are_not_plain():
    summary = summarize(Odd(), floats(1, 16, 16, 3), True, scale=floats(1))
    assert summary["shared"].activations == 16 * 16 * 4 + 8 * 8 * 4
    assert summary["after"].receptive_field == 5 and summary["norm"].receptive_field == 3
    assert summary["larger"].macs == 16 * 16 * 9 * 4 * 2
    assert summary["larger"].stride == 0.5
    assert all(row.path != "after" for row in summarize(Odd(), floats(1, 16, 16, 3), False).rows)
    assert summarize(Odd(), floats(2, 3), method="encode").macs == 2 * 3 * 5
    with pytest.raises(UserError, match="Odd has no row 'shred'; did you mean shared"):
        summary["shred"]


def test_statistics_of_the_batch_do_not_widen_what_a_layer_sees():
    summary = summarize(Plain(), floats(2, 16, 16, 3), train=True)
    assert summary["second"].receptive_field == 8 and summary["second"].stride == 4


# row: (weights, weights and biases), and the multiply-adds in millions.
GOOGLENET = {
    "conv1": (9_408, 9_472, 118.01),
    "conv2": (114_688, 114_944, 359.66),
    "inception3a": (163_328, 163_696, 128.05),
    "inception3b": (388_096, 388_736, 304.27),
    "inception4a": (375_552, 376_176, 73.61),
    "inception4b": (448_512, 449_160, 87.91),
    "inception4c": (509_440, 510_104, 99.85),
    "inception4d": (604_672, 605_376, 118.52),
    "inception4e": (867_328, 868_352, 170.00),
    "inception5a": (1_042_432, 1_043_456, 51.08),
    "inception5b": (1_442_816, 1_444_080, 70.70),
    "linear": (1_024_000, 1_025_000, 1.02),
}


def test_googlenets_table_row_by_row():
    rows = googlenet_table.computed()
    assert {name: row[:2] for name, row in rows.items()} == {
        name: row[:2] for name, row in GOOGLENET.items()
    }
    for name, (*_, macs) in rows.items():
        assert round(macs / 1e6, 2) == GOOGLENET[name][2], name
    assert sum(row[0] for row in rows.values()) == 6_990_272
    text = googlenet_table.as_text().splitlines()
    wrong = [
        line.split()[0] for line in text if "**" in line and not line.startswith(("6,", "sum"))
    ]
    expected = {"conv1", "inception4a", "inception4c", "inception4d", "inception4e"}
    assert set(wrong) == expected | {"inception5a", "inception5b"}
    assert [line.split()[0] for line in text if " * " in f"{line} "][:2] == [
        "inception3b",
        "inception4b",
    ]

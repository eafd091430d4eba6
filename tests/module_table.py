"""Every module that maps a batch to outputs, once; `test_module_table.py` holds for all of them.

A new model or sequence layer is one row here.
"""

import jax
import jax.numpy as jnp

from nn_lib.layers import Conv
from nn_lib.models import MLP, CharLM, ConvNet, LeNet5, Linear, MultiHead, SequenceClassifier
from nn_lib.recurrent import (
    RNN,
    Bidirectional,
    ConditionedVanillaCell,
    GRUCell,
    LSTMCell,
    MUT1Cell,
    MUT2Cell,
    MUT3Cell,
    NASCell,
    RecurrentHighwayCell,
    Stacked,
    VanillaCell,
)

KEY = jax.random.key(0)
VECTORS = jax.random.normal(KEY, (3, 6))
SIGNALS = jax.random.normal(KEY, (3, 8, 2))
IMAGES = jax.random.normal(KEY, (3, 8, 8, 2))
DIGITS = jax.random.normal(KEY, (3, 32, 32, 1))
TOKENS = jax.random.randint(KEY, (3, 8), 0, 7)

# name: (module, inputs [3, ...])
MODULES = {
    "conv_1d": (Conv(4, (3,), padding=1), SIGNALS),
    "conv_2d_grouped": (Conv(4, (3, 3), strides=2, groups=2), IMAGES),
    "linear": (Linear(num_classes=5), VECTORS),
    "mlp": (MLP(hidden=(4, 4), num_classes=5, dropout=0.5, activation=jnp.tanh), VECTORS),
    "convnet_1d": (ConvNet((4,), ((3,),), (1,), num_classes=5), SIGNALS),
    "convnet_2d": (ConvNet((4,), ((3, 3),), (2,), num_classes=5, batch_norm=True), IMAGES),
    "lenet5": (LeNet5(num_classes=5, activation=jnp.tanh), DIGITS),
    "multi_head": (MultiHead(MLP((4,)), heads=(("class", 5),)), VECTORS),
    "rnn_vanilla": (RNN(VanillaCell(4)), SIGNALS),
    "rnn_lstm_reverse": (RNN(LSTMCell(4), reverse=True), SIGNALS),
    "rnn_gru_learned": (RNN(GRUCell(4), learned_initial_carry=True), SIGNALS),
    "rnn_mut1": (RNN(MUT1Cell(2)), SIGNALS),
    "rnn_mut2": (RNN(MUT2Cell(2)), SIGNALS),
    "rnn_mut3_reverse": (RNN(MUT3Cell(4), reverse=True), SIGNALS),
    "rnn_recurrent_highway": (RNN(RecurrentHighwayCell(4)), SIGNALS),
    "rnn_nas": (RNN(NASCell(4)), SIGNALS),
    "rnn_conditioned": (RNN(ConditionedVanillaCell(4, condition_features=2)), SIGNALS),
    "bidirectional": (Bidirectional(RNN(GRUCell(4)), RNN(LSTMCell(3), reverse=True)), SIGNALS),
    "stacked": (Stacked([RNN(LSTMCell(4)), RNN(GRUCell(4, reset_after=True))]), SIGNALS),
    "sequence_classifier": (SequenceClassifier(RNN(GRUCell(4)), "mean", 5), SIGNALS),
    "char_lm": (CharLM(7, GRUCell(4), num_layers=2, dropout=0.5), TOKENS),
    "char_lm_embedded": (CharLM(7, LSTMCell(4), embedding=3), TOKENS),
}

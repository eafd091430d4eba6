"""Every module that maps a batch to outputs, once; `test_module_table.py` holds for all of them.

A new model or sequence layer is one row here.
"""

import jax
import jax.numpy as jnp

from nn_lib.layers import (
    Apply,
    BatchNorm,
    Conv,
    ConvTranspose,
    ConvUnit,
    DepthwiseConv,
    DropPath,
    GroupNorm,
    Highway,
    Inception,
    InstanceNorm,
    LayerNorm,
    LocallyConnected,
    LocalResponseNorm,
    PartialConv,
    ResidualBlock,
    SeparableConv,
    SpatialDropout,
    Subsampling,
)
from nn_lib.models import (
    MLP,
    VGG,
    CharLM,
    CifarNet,
    CifarResNet,
    ConvNet,
    ConvOverTime,
    LeNet5,
    LeNet5Original,
    Linear,
    MultiHead,
    NameRNN,
    RecurrentEncoder,
    Seq2Seq,
    SequenceClassifier,
    SequenceTagger,
    TextClassifier,
)
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


def numbers(*shape):
    """Normal, rounded to what bfloat16 has too: inputs of one value in both precisions."""
    return jax.random.normal(KEY, shape, jnp.bfloat16).astype(jnp.float32)


VECTORS = numbers(3, 6)
SIGNALS = numbers(3, 8, 2)
IMAGES = numbers(3, 8, 8, 2)
DIGITS = numbers(3, 32, 32, 1)
COLOURED = numbers(3, 32, 32, 3)
TOKENS = jax.random.randint(KEY, (3, 8), 0, 7)

# name: (module, inputs [3, ...])
MODULES = {
    "conv_1d": (Conv(4, (3,), padding=1), SIGNALS),
    "conv_2d_grouped": (Conv(4, (3, 3), strides=2, groups=2), IMAGES),
    "conv_transposed": (ConvTranspose(4, (3, 3), strides=2, padding=1, groups=2), IMAGES),
    "conv_depthwise": (DepthwiseConv((3, 3), multiplier=2), IMAGES),
    "conv_separable": (SeparableConv(4, (3,), padding="SAME"), SIGNALS),
    "conv_partial": (PartialConv(((0,), (0, 1), (1,)), (3, 3)), IMAGES),
    "conv_unit": (ConvUnit(4, (3, 3), batch_norm=True, activation=jnp.tanh), IMAGES),
    "locally_connected": (LocallyConnected(4, (3, 3), strides=2, padding=1), IMAGES),
    "subsampling": (Subsampling(), IMAGES),
    "response_norm": (LocalResponseNorm(alpha=0.1), IMAGES),
    "batch_norm": (BatchNorm(use_running_average=True), IMAGES),
    "layer_norm": (LayerNorm(), IMAGES),
    "group_norm": (GroupNorm(num_groups=2), IMAGES),
    "instance_norm": (InstanceNorm(), IMAGES),
    "spatial_dropout": (SpatialDropout(0.5), IMAGES),
    "drop_path": (DropPath(0.5), IMAGES),
    "apply": (Apply(jnp.tanh), IMAGES),
    "highway": (Highway(), VECTORS),
    "inception": (Inception(2, 2, 2, 2, 2, 2), IMAGES),
    "residual_block": (ResidualBlock(4, strides=2, bottleneck=True, shortcut="A"), IMAGES),
    "linear": (Linear(num_classes=5), VECTORS),
    "mlp": (MLP(hidden=(4, 4), num_classes=5, dropout=0.5, activation=jnp.tanh), VECTORS),
    "convnet_1d": (ConvNet((4,), ((3,),), (1,), num_classes=5), SIGNALS),
    "convnet_2d": (ConvNet((4,), ((3, 3),), (2,), num_classes=5, batch_norm=True), IMAGES),
    "lenet5": (LeNet5(num_classes=5, activation=jnp.tanh), DIGITS),
    "lenet5_original": (LeNet5Original(num_classes=5), DIGITS),
    "cifarnet": (CifarNet(num_classes=5), COLOURED),
    "vgg": (VGG((1, 1), widths=(2, 3), hidden=4, pooled=2, num_classes=5), COLOURED),
    "resnet": (CifarResNet(8, "B", width=2, num_classes=5), COLOURED),
    "resnet_v2": (CifarResNet(8, "C", width=2, num_classes=5, pre_activation=True), COLOURED),
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
    "sequence_tagger": (SequenceTagger(RNN(GRUCell(4)), 7, 5, embedding=3), TOKENS),
    "text_cnn": (TextClassifier(ConvOverTime((2, 3), 4), 7, 5, embedding=3), TOKENS),
    "text_attention": (TextClassifier(RecurrentEncoder(RNN(GRUCell(4))), 7, 5, 3), TOKENS),
    "name_rnn": (NameRNN(7, 5, features=4), TOKENS),
    "seq2seq": (Seq2Seq(7, 5, GRUCell(4), 2, "bahdanau", embedding=3, dropout=0.5), TOKENS),
    "char_lm": (CharLM(7, GRUCell(4), num_layers=2, dropout=0.5), TOKENS),
    "char_lm_embedded": (CharLM(7, LSTMCell(4), embedding=3), TOKENS),
}
WITHOUT_PARAMETERS = ("response_norm", "spatial_dropout", "drop_path", "apply")

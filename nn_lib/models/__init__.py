"""Models: one paper a file."""

from nn_lib.models.alexnet import AlexNet
from nn_lib.models.char_lm import CharLM
from nn_lib.models.cifarnet import CifarNet
from nn_lib.models.convnet import ConvNet
from nn_lib.models.googlenet import GoogLeNet
from nn_lib.models.lenet import LeNet5
from nn_lib.models.lenet_original import LeNet5Original
from nn_lib.models.mlp import MLP, Linear
from nn_lib.models.multi_head import MultiHead
from nn_lib.models.name_rnn import NameRNN
from nn_lib.models.resnet import (
    CifarResNet,
    ResNet,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
)
from nn_lib.models.seq2seq import Seq2Seq
from nn_lib.models.sequence_classifier import SequenceClassifier
from nn_lib.models.sequence_tagger import SequenceTagger
from nn_lib.models.text_classifier import (
    ConvOverTime,
    MeanOverTime,
    RecurrentEncoder,
    TextClassifier,
)
from nn_lib.models.vgg import VGG, VGG11, VGG13, VGG16, VGG19

__all__ = [
    "MLP",
    "VGG",
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
    "AlexNet",
    "CharLM",
    "CifarNet",
    "CifarResNet",
    "ConvNet",
    "ConvOverTime",
    "GoogLeNet",
    "LeNet5",
    "LeNet5Original",
    "Linear",
    "MeanOverTime",
    "MultiHead",
    "NameRNN",
    "RecurrentEncoder",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "Seq2Seq",
    "SequenceClassifier",
    "SequenceTagger",
    "TextClassifier",
]

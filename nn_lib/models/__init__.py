"""Models: one paper a file."""

from nn_lib.models.char_lm import CharLM
from nn_lib.models.convnet import ConvNet
from nn_lib.models.lenet import LeNet5
from nn_lib.models.mlp import MLP, Linear
from nn_lib.models.multi_head import MultiHead
from nn_lib.models.sequence_classifier import SequenceClassifier

__all__ = ["MLP", "CharLM", "ConvNet", "LeNet5", "Linear", "MultiHead", "SequenceClassifier"]

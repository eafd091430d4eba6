"""Recurrent cells behind one contract, and the drivers that run them over time."""

from nn_lib.recurrent.compose import Bidirectional, Stacked
from nn_lib.recurrent.gru import GRUCell
from nn_lib.recurrent.lstm import LSTMCell
from nn_lib.recurrent.scan import RNN, lengths_to_mask
from nn_lib.recurrent.vanilla import VanillaCell

__all__ = [
    "RNN",
    "Bidirectional",
    "GRUCell",
    "LSTMCell",
    "Stacked",
    "VanillaCell",
    "lengths_to_mask",
]

"""Recurrent cells behind one contract, and the drivers that run them over time."""

from nn_lib.recurrent.arguments import lengths_to_mask
from nn_lib.recurrent.attention import BahdanauCell, LuongCell
from nn_lib.recurrent.compose import Bidirectional, Stacked
from nn_lib.recurrent.conditioned import ConditionedVanillaCell
from nn_lib.recurrent.equations import from_equations, to_equations
from nn_lib.recurrent.gru import GRUCell
from nn_lib.recurrent.highway import RecurrentHighwayCell
from nn_lib.recurrent.lstm import LSTMCell
from nn_lib.recurrent.mut import MUT1Cell, MUT2Cell, MUT3Cell
from nn_lib.recurrent.nas import NASCell
from nn_lib.recurrent.scan import RNN
from nn_lib.recurrent.truncated import read_window, truncated_bptt
from nn_lib.recurrent.vanilla import VanillaCell, output_distribution

__all__ = [
    "RNN",
    "BahdanauCell",
    "Bidirectional",
    "ConditionedVanillaCell",
    "GRUCell",
    "LSTMCell",
    "LuongCell",
    "MUT1Cell",
    "MUT2Cell",
    "MUT3Cell",
    "NASCell",
    "RecurrentHighwayCell",
    "Stacked",
    "VanillaCell",
    "from_equations",
    "lengths_to_mask",
    "output_distribution",
    "read_window",
    "to_equations",
    "truncated_bptt",
]

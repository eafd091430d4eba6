"""Training: an `Experiment` in, a work directory out."""

from nn_lib.train.config import Experiment
from nn_lib.train.loop import fit
from nn_lib.train.state import TrainState
from nn_lib.train.trained import Trained, restore

__all__ = ["Experiment", "TrainState", "Trained", "fit", "restore"]

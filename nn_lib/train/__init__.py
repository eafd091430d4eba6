"""Training: an `Experiment` in, a work directory out."""

from nn_lib.train.config import Experiment
from nn_lib.train.loop import fit
from nn_lib.train.state import TrainState
from nn_lib.train.trained import Trained, restore
from nn_lib.train.transcription import Transcription

__all__ = ["Experiment", "TrainState", "Trained", "Transcription", "fit", "restore"]

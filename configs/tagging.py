"""A tag for every token, many-to-many aligned: the lexical class of each character of Python.

Paper    Graves & Schmidhuber 2005, "Framewise phoneme classification with bidirectional LSTM"
Data     python_tokens, lines of this Python's library tagged by `tokenize`, no download; words in
         CoNLL's columns by --config.data.path=FOLDER --config.data.layout=columns
         --config.data.unit=words
Command  python -m experiments.train --config=configs/tagging.py --workdir=runs/tagging
Then     python -m experiments.generate --workdir=runs/tagging --prompt='if x == 10:  # ten'
Variants :lstm (default) :gru
Hardware 2 CPU cores
Ledger   :lstm  test span_f1 95 %  3 seeds
         :lstm  test accuracy 95 %  3 seeds
"""

import functools

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.models import SequenceTagger
from nn_lib.objectives import tag
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import RNN, Bidirectional, GRUCell, LSTMCell
from nn_lib.train import Experiment

CELLS = {"lstm": LSTMCell, "gru": GRUCell}
VARIANTS = tuple(CELLS)


def get_config(arg: str = "lstm") -> Experiment:
    check_choice("configs/tagging.py: variant", arg, VARIANTS)
    forward, backward = (RNN(CELLS[arg](128), reverse=reverse) for reverse in (False, True))
    return Experiment(
        model=SequenceTagger(Bidirectional(forward, backward), embedding=64, dropout=0.2),
        objective=functools.partial(tag, class_names=None),
        data=DataConfig(name="python_tokens"),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=3e-3, schedule="cosine", clip_norm=1.0
        ),
        batch_size=64,
        num_steps=2_000,
        eval_every=250,
        checkpoint_every=500,
        log_every=50,
        select_by="span_f1",
        select_mode="max",
    )

"""A character language model, trained by truncated back-propagation through time.

Paper    Karpathy 2015, "The unreasonable effectiveness of recurrent neural networks"
Data     python_docs, the language reference in every Python, no download; any text file or folder
         of them by --config.data.path=
Command  python -m experiments.train --config=configs/char_lm.py --workdir=runs/char_lm
Then     python -m experiments.generate --workdir=runs/char_lm --prompt='The ' --length=500
Variants :lstm (default) :gru :vanilla, :stacked, two layers of 256, and :large, 512 units
Hardware 2 CPU cores, 5 to 6 minutes; :large 15
Ledger   :lstm  validation bits_per_character 2.2  1 seed
         :lstm  validation bits_per_character 2.2  1 seed  --config.data.path=$DATA/text/tiny_shakespeare.txt
         :large validation bits_per_character 2.05  1 seed  --config.data.path=$DATA/text/tiny_shakespeare.txt
"""

import functools

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.models import CharLM
from nn_lib.objectives import next_token
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import GRUCell, LSTMCell, VanillaCell
from nn_lib.train import Experiment

CELLS = {"lstm": LSTMCell, "gru": GRUCell, "vanilla": VanillaCell}
VARIANTS = (*CELLS, "stacked", "large")


def get_config(arg: str = "lstm") -> Experiment:
    check_choice("configs/char_lm.py: variant", arg, VARIANTS)
    large = arg == "large"
    cell = LSTMCell({"large": 512, "stacked": 256}[arg]) if arg not in CELLS else CELLS[arg](384)
    return Experiment(
        model=CharLM(
            cell=cell, num_layers=2 if arg == "stacked" else 1, dropout=0.3 if large else 0.1
        ),
        # A model that never restarts forgets how to begin: a stream of the validation text may
        # then run off into a state of 15 bits a character for good.
        objective=functools.partial(next_token, restart=0.02),
        data=DataConfig(name="python_docs", sequence_length=64),
        optimizer=OptimizerConfig(
            name="adam",
            learning_rate=1e-2 if arg in ("lstm", "large") else 3e-3,
            schedule="cosine",
            clip_norm=1.0,
        ),
        batch_size=32,
        num_steps=3000 if large else 2000,
        ema_decay=0.99 if large else 0.0,
        eval_every=250,
        checkpoint_every=250,
        log_every=50,
        eval_batch_size=32,
        select_by="bits_per_character",
    )

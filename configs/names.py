"""Names to languages, many-to-one: which of 18 languages is a surname from?

Paper    Robertson, "Classifying names with a character-level RNN" (the lecture's tutorial)
Data     unicode_names/scripts, the script that a letter is of, by the letter's name, no download;
         a folder with a file of names for every class by --config.data.path= and layout=folder.
         Names that the files list twice may then lie in two splits, as in the tutorial's data;
         --config.data.distinct=True keeps them apart
Command  python -m experiments.train --config=configs/names.py:gru --workdir=runs/names \\
             --config.data.path=FOLDER --config.data.layout=folder
Then     python -m experiments.generate --workdir=runs/names --prompt=Satoshi
Variants :gru (default) :lstm :tutorial, exactly as the lecture prints it: no tanh, the old state
         feeds the output, one name a step
Hardware 2 CPU cores, 2 minutes
Ledger   :tutorial  validation accuracy 60 %  3 seeds  --config.data.path=$DATA/names --config.data.layout=folder
         :gru       validation accuracy 82 %  3 seeds  --config.data.path=$DATA/names --config.data.layout=folder
         :lstm      validation accuracy 82 %  3 seeds  --config.data.path=$DATA/names --config.data.layout=folder
         :gru       validation accuracy 78 %  3 seeds  --config.data.path=$DATA/names --config.data.layout=folder --config.data.distinct=True
         :gru       validation accuracy 50 %  3 seeds
"""

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.data.text import LETTERS, to_ascii_letters
from nn_lib.models import NameRNN, RecurrentEncoder, TextClassifier
from nn_lib.objectives import classify
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import RNN, Bidirectional, GRUCell, LSTMCell
from nn_lib.train import Experiment

CELLS = {"gru": GRUCell, "lstm": LSTMCell}
VARIANTS = (*CELLS, "tutorial")


def get_config(arg: str = "gru") -> Experiment:
    check_choice("configs/names.py: variant", arg, VARIANTS)
    data = DataConfig(
        name="unicode_names/scripts",
        normalize=to_ascii_letters,
        alphabet=LETTERS,
        distinct=False,
        buckets=3,
    )
    if arg == "tutorial":
        return Experiment(
            model=NameRNN(),
            objective=classify,
            data=data,
            optimizer=OptimizerConfig(name="sgd", learning_rate=0.005),
            batch_size=1,
            num_steps=100_000,
            eval_every=10_000,
            checkpoint_every=10_000,
            log_every=1_000,
            select_by="accuracy",
            select_mode="max",
        )
    forward, backward = (RNN(CELLS[arg](192), reverse=reverse) for reverse in (False, True))
    encoder = RecurrentEncoder(Bidirectional(forward, backward), pooling="max")
    return Experiment(
        model=TextClassifier(encoder, embedding=64, dropout=0.4, embedding_dropout=0.4),
        objective=classify,
        data=data,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, weight_decay=1e-2, schedule="cosine", clip_norm=1.0
        ),
        batch_size=64,
        num_steps=3_000,
        eval_every=250,
        checkpoint_every=500,
        log_every=100,
        ema_decay=0.995,
        select_by="accuracy",
        select_mode="max",
    )

"""Addition of numbers as text, many-to-many delayed: '123+45' is read, '168' is written.

Paper    Zaremba & Sutskever 2014, "Learning to execute"; Sutskever, Vinyals & Le 2014, "Sequence
         to sequence learning with neural networks" (:plain, the source read in reverse); Bahdanau,
         Cho & Bengio 2015 and Luong, Pham & Manning 2015 (:bahdanau, :luong)
Data     generated, no download: 45,000 pairs to train on, others to validate and to test
Command  python -m experiments.train --config=configs/addition.py:bahdanau --workdir=runs/addition
Then     python -m experiments.generate --workdir=runs/addition --prompt=123+45
Variants :bahdanau (default) :luong :plain
Hardware 2 CPU cores, 5 minutes
Ledger   :bahdanau  test sequence_error_rate 0.01  3 seeds
         :luong     test sequence_error_rate 0.01  3 seeds
         :plain     test sequence_error_rate 0.01  3 seeds
"""

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.models import Seq2Seq
from nn_lib.objectives import transduce
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import LSTMCell
from nn_lib.train import Experiment, Transcription

VARIANTS = ("bahdanau", "luong", "plain")


def get_config(arg: str = "bahdanau") -> Experiment:
    check_choice("configs/addition.py: variant", arg, VARIANTS)
    return Experiment(
        model=Seq2Seq(
            cell=LSTMCell(128),
            attention="none" if arg == "plain" else arg,
            bidirectional=arg != "plain",
            reverse_source=True,
            embedding=32,
        ),
        objective=transduce,
        data=DataConfig(name="addition/3", buckets=1),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=4e-3, schedule="cosine", clip_norm=1.0
        ),
        batch_size=128,
        num_steps=4_000,
        eval_every=500,
        checkpoint_every=500,
        log_every=100,
        transcription=Transcription(max_length=8),
        select_by="sequence_error_rate",
    )

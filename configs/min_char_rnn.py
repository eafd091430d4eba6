"""min-char-rnn, the listing of the lectures: 100 tanh units, 25 characters a step, AdaGrad.

Paper    Karpathy 2015, min-char-rnn (the listing's misprints corrected)
Data     python_docs, no download; any text by --config.data.path=; the windows follow each other
         through the text as in the listing, and the state is carried along
Command  python -m experiments.train --config=configs/min_char_rnn.py --workdir=runs/min_char_rnn
Then     python -m experiments.generate --workdir=runs/min_char_rnn --length=200 --temperature=1
Variants :text (default), 30,000 steps with a sample of 200 characters every 100
         :hello, the word "hello" learned to certainty
Hardware 2 CPU cores
Ledger   :hello  validation loss 0.01  3 seeds
         :text   test bits_per_character 3.2  3 seeds
"""

import functools

from nn_lib.checks import check_choice
from nn_lib.data import DataConfig
from nn_lib.layers.initializers import scaled_normal
from nn_lib.models import CharLM
from nn_lib.objectives import next_token
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import VanillaCell
from nn_lib.train import Experiment

VARIANTS = ("text", "hello")


def get_config(arg: str = "text") -> Experiment:
    check_choice("configs/min_char_rnn.py: variant", arg, VARIANTS)
    init = functools.partial(scaled_normal, stddev=0.01)
    config = Experiment(
        model=CharLM(
            cell=VanillaCell(100, kernel_init=init, recurrent_kernel_init=init), output_init=init
        ),
        objective=next_token,
        data=DataConfig(name="python_docs", sequence_length=25),
        optimizer=OptimizerConfig(
            name="adagrad",
            variant="min_char_rnn",
            learning_rate=0.1,
            epsilon=1e-8,
            clip_value=5.0,
        ),
        batch_size=1,
        reduction="sum",
        smooth_loss=0.999,
        num_steps=30_000,
        eval_every=0,
        checkpoint_every=10_000,
        log_every=100,
        sample_every=100,
        sample_length=200,
        eval_batch_size=1,
        evaluate_with="last",
    )
    if arg == "hello":
        config.data = DataConfig(name="hello", sequence_length=4)
        config.num_steps, config.sample_every, config.sample_length = 500, 100, 4
    return config

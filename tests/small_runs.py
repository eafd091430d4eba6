"""Small experiments and what they leave, for the tests of `fit`."""

import json

import numpy as np

from nn_lib.data import DataConfig
from nn_lib.data.batches import ExampleBatches
from nn_lib.models import MLP, CharLM
from nn_lib.objectives import classify, next_token
from nn_lib.optim import OptimizerConfig
from nn_lib.recurrent import GRUCell
from nn_lib.train import Experiment
from nn_lib.train.checkpoint import Checkpoints


def small(**fields) -> Experiment:
    """A multi-layer perceptron on some of the digits for twenty steps."""
    defaults = {
        "model": MLP(hidden=(8,)),
        "objective": classify,
        "data": DataConfig(
            name="digits",
            train_split="train[:320]",
            validation_split="validation[:80]",
            test_split="test[:80]",
        ),
        "optimizer": OptimizerConfig(name="adam", learning_rate=1e-2),
        "batch_size": 32,
        "num_steps": 20,
        "eval_every": 10,
        "checkpoint_every": 5,
        "log_every": 5,
        "select_by": "accuracy",
        "select_mode": "max",
    }
    return Experiment(**{**defaults, **fields})


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def poison(monkeypatch, *steps):
    """Makes the batches of some steps NaN."""
    good = ExampleBatches.at

    def poisoned(self, step):
        batch = good(self, step)
        return {**batch, "inputs": batch["inputs"] * np.float32(np.nan if step in steps else 1)}

    monkeypatch.setattr(ExampleBatches, "at", poisoned)


def final_leaves(workdir, step):
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        return checkpoints.read(step)[0]
    finally:
        checkpoints.close()


def text_experiment(path, **fields) -> Experiment:
    return Experiment(
        **{
            "model": CharLM(cell=GRUCell(8)),
            "objective": next_token,
            "data": DataConfig(path=str(path), sequence_length=8),
            "optimizer": OptimizerConfig(learning_rate=1e-2),
            "batch_size": 4,
            "num_steps": 6,
            "eval_every": 3,
            "checkpoint_every": 3,
            "log_every": 3,
            "eval_batch_size": 2,
            **fields,
        }
    )


def tree(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

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
from nn_lib.train.run import Run

FILES = ("metrics.jsonl", "summary.json")  # that tell whether two runs were the same


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


def watched(monkeypatch, before=lambda what, number: None):
    """The order in which a run begins its training ("t") and evaluation ("e") steps."""
    seen, prepare = [], Run.prepare

    def prepared(experiment):
        run = prepare(experiment)
        train_step, eval_step = run.train_step, run.eval_step

        def train(state, batch):
            seen.append("t")
            before("t", seen.count("t"))
            return train_step(state, batch)

        def evaluate(*arguments):
            seen.append("e")
            before("e", seen.count("e"))
            return eval_step(*arguments)

        train.lower = train_step.lower  # the step's memory is looked at before it runs
        run.train_step, run.eval_step = train, evaluate
        return run

    monkeypatch.setattr(Run, "prepare", prepared)
    return seen


def kept(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())

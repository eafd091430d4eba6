"""A finished (or running) run as something to use: its model, parameters, vocabulary."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nn_lib.checks import UserError
from nn_lib.data import load
from nn_lib.train import codec
from nn_lib.train.checkpoint import Checkpoints, Damaged
from nn_lib.train.config import Experiment
from nn_lib.train.evaluation import evaluate
from nn_lib.train.sharding import Layout, MeshConfig
from nn_lib.train.step import make_eval_step
from nn_lib.train.workdir import CHECKPOINTS, DataFacts, read_experiment, read_facts


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `restore` returns.

    Attributes:
      experiment: as it was resolved when it ran; `experiment.model` is complete.
      variables: `{'params': ..., ...}` for `experiment.model.apply`.
      facts: class names and vocabulary.
      step: of the checkpoint.
    """

    experiment: Experiment
    variables: dict[str, Any]
    facts: DataFacts
    step: int

    def evaluate(
        self, split: str, *, data_dir: str | None = None, path: str | None = None
    ) -> dict[str, tuple]:
        """{name: (sum, count)} on a split of the run's data, which may have moved.

        Raises:
          UserError: data that are not there, or not those that the run was trained on.
        """
        experiment = self.experiment
        where = dataclasses.replace(
            experiment.data,
            data_dir=data_dir or experiment.data.data_dir,
            path=path or experiment.data.path,
        )
        data = load(where)
        if data.fingerprint() != self.facts.fingerprint:
            raise UserError(
                f"data set {data.name!r} is not what this run was trained on; name the folder it "
                "came from by --data_dir or --data_path"
            )
        layout = Layout.of(MeshConfig())
        step = make_eval_step(
            experiment.model, experiment.objective, prepare=experiment.data.prepare_batch
        )
        size, how = experiment.eval_batch_size, experiment.transcription
        model = experiment.model
        transcribe = layout.jit_replicated(how.compiled(model)) if how else None
        variables = layout.replicate(self.variables)
        step = layout.jit_evaluation(step)
        return evaluate(step, variables, model, data, split, size, layout, transcribe)


def restore(
    workdir: str | Path,
    *,
    checkpoint: str | int = "best",
    trusted: tuple[str, ...] = (),
) -> Trained:
    """The model of a work directory with the parameters of one of its checkpoints.

    Args:
      checkpoint: 'best' by the run's validation metric (the last where it has none), 'last', or a
        step.
      trusted: packages beside nn_lib, flax, jax and optax that its config may name.

    Raises:
      UserError: no work directory, no such checkpoint, or a damaged one.
    """
    experiment = read_experiment(workdir, (*codec.TRUSTED, *trusted))
    facts = read_facts(workdir)
    folder = Path(workdir).expanduser() / CHECKPOINTS
    if not folder.is_dir():
        raise UserError(f"{str(workdir)!r} holds no checkpoint yet; let experiments.train go on")
    checkpoints = Checkpoints(folder, keep=experiment.keep_checkpoints, read_only=True)
    try:
        step = _choose(checkpoints, checkpoint)
        try:
            leaves, _ = checkpoints.read(step)
        except Damaged as damage:
            others = [s for s in checkpoints.steps() if s != step]
            raise UserError(
                f"checkpoint {step} of {str(workdir)!r} {damage}; there are also {others}, chosen "
                "by --checkpoint=STEP"
            ) from damage
    finally:
        checkpoints.close()
    return Trained(experiment, _variables(leaves), facts, step)


def _choose(checkpoints: Checkpoints, asked: str | int) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{str(checkpoints.folder)!r} is empty; let experiments.train go on")
    if asked == "last":
        return steps[-1]
    if asked == "best":
        with contextlib.suppress(Damaged):
            best = checkpoints.note(steps[-1])["best"]["step"]
            return steps[-1] if best is None else best
        return steps[-1]
    if str(asked).isdecimal() and int(asked) in steps:
        return int(asked)
    raise UserError(f"there is no checkpoint {asked!r}; there are best, last, {steps}")


def _variables(leaves: dict[str, Any]) -> dict[str, Any]:
    """The evaluated part of the saved leaves as the nested dict that Flax expects."""
    variables: dict[str, Any] = {"params": {}}
    params = "ema" if any(path.startswith("ema.") for path in leaves) else "params"
    for path, leaf in leaves.items():
        top, *names = path.split(".")
        if top == "model_state":
            target = variables
        elif top == params:
            target = variables["params"]
        else:
            continue
        for name in names[:-1]:
            target = target.setdefault(name, {})
        target[names[-1]] = jnp.asarray(np.asarray(leaf))  # on one device, wherever it was
    return variables

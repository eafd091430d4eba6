"""The one description of a run, and the rules that its fields obey."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from nn_lib.checks import UserError
from nn_lib.data import DataConfig, DataSet
from nn_lib.optim import OptimizerConfig, build_optimizer
from nn_lib.optim.schedules import DEPEND_ON_LENGTH
from nn_lib.train import codec
from nn_lib.train.sharding import MeshConfig
from nn_lib.train.transcription import Transcription


@dataclasses.dataclass
class Experiment:
    """Everything that decides what a run computes.

    Attributes:
      model: a Flax module; its `num_classes` or `vocab_size` of None is filled in from the data.
      objective: one of `nn_lib.objectives`, or a function with their signature.
      data: which data, and how it is prepared.
      optimizer: which update.
      batch_size: examples (or text streams) in a global batch; 0 means the whole training split.
      num_steps: updates in all.
      eval_every: steps between evaluations on the validation split; 0 means at the end only.
      checkpoint_every: steps between checkpoints; 0 means at the end and at each new best only.
      log_every: steps that one line of training metrics averages.
      reduction: of the losses of a batch to the one that is differentiated, 'mean' or 'sum'.
      accumulation: equal parts that a batch is differentiated in, one after the other; a step is
        still one update.
      ema_decay: of an exponential moving average of the parameters, which is then evaluated; 0
        keeps none.
      seed: of the initialisation, the order of the data and all noise.
      eval_overlap: evaluations between steps go on beside training, one batch after each step, of a
        copy of the state; the memory for that copy is the price. The results are the same.
      eval_batch_size: examples (or text streams) in an evaluation batch; changes no result but
        that more text streams begin without context.
      select_by: the validation metric that names the best checkpoint.
      select_mode: 'max' or 'min'.
      evaluate_with: parameters of the final evaluation, the 'best' checkpoint's or the 'last'.
      transcription: how an evaluation of an encoder-decoder decodes; None measures it with the true
        tokens before each one only.
      smooth_loss: s of a further training metric, `smooth_loss = s smooth_loss + (1 - s) loss`,
        which begins at the loss of chance; 0 is none.
      sample_every: steps between samples of a language model, in `samples.jsonl`; 0 is none.
      sample_length: of their characters.
      keep_checkpoints: how many of the latest checkpoints stay; the best always stays too.
      max_bad_steps: consecutive steps with a non-finite loss or gradient after which a run stops.
      mesh: the devices, and what is cut over them.
    """

    model: nn.Module
    objective: Callable
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    batch_size: int = 100
    num_steps: int = 1000
    eval_every: int = 500
    checkpoint_every: int = 500
    log_every: int = 100
    reduction: str = "mean"
    accumulation: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    eval_overlap: bool = True
    eval_batch_size: int = 250
    select_by: str = "loss"
    select_mode: str = "min"
    evaluate_with: str = "best"
    transcription: Transcription | None = None
    smooth_loss: float = 0.0
    sample_every: int = 0
    sample_length: int = 200
    keep_checkpoints: int = 2
    max_bad_steps: int = 20
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)


# Fields that a run may be continued with changed: they do not decide what a step computes.
FREE = (
    "eval_every",
    "eval_overlap",
    "checkpoint_every",
    "log_every",
    "keep_checkpoints",
    "max_bad_steps",
    "evaluate_with",
    "data.data_dir",
    "data.path",
    "data.in_memory_limit",
    "data.workers",
    "data.max_bad_examples",
    "sample_every",
    "sample_length",
    "mesh.data",
    "mesh.fsdp",
    "mesh.model",
)


def check(experiment: Experiment) -> None:
    """Raises UserError for the first field that cannot be meant."""
    at_least = {
        "batch_size": 0,
        "num_steps": 1,
        "eval_every": 0,
        "checkpoint_every": 0,
        "log_every": 1,
        "accumulation": 1,
        "seed": 0,
        "eval_batch_size": 1,
        "keep_checkpoints": 1,
        "max_bad_steps": 1,
        "sample_every": 0,
        "sample_length": 1,
    }
    for name, least in at_least.items():
        value = getattr(experiment, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            zero = " (0 means the whole training split)" if name == "batch_size" else ""
            raise UserError(f"{name} must be a whole number, {least} or more{zero}, got {value!r}")
    if experiment.seed >= 2**32:
        raise UserError(f"seed must be below 2**32, got {experiment.seed}")
    for name in ("ema_decay", "smooth_loss"):
        if not 0 <= getattr(experiment, name) < 1:
            raise UserError(
                f"{name} must be at least 0 and below 1, got {getattr(experiment, name)}"
            )
    pairs = (
        ("reduction", ("mean", "sum")),
        ("select_mode", ("max", "min")),
        ("evaluate_with", ("best", "last")),
    )
    for name, choices in pairs:
        value = getattr(experiment, name)
        if value not in choices:
            raise UserError(f"{name} must be {' or '.join(choices)}, got {value!r}")
    data_at_least = {
        "sequence_length": 1,
        "overlap": 0,
        "min_count": 1,
        "max_length": 0,
        "buckets": 1,
        "workers": -1,
        "max_bad_examples": 0,
    }
    for name, least in data_at_least.items():
        value = getattr(experiment.data, name)
        if value < least:
            raise UserError(f"data.{name} must be at least {least}, got {value}")


def resolve(experiment: Experiment, data: DataSet) -> Experiment:
    """The experiment with every field that only data or other fields know filled in.

    `num_classes` and `vocab_size` of the model, those that `data.augment` has bound to None, the
    length of a decaying schedule. The optimizer is built once here, so that its mistakes show
    before anything is written.
    """
    model: Any = experiment.model.clone()  # a dtype set since it was made reaches its parts
    for name, size in data.sizes.items():
        if hasattr(model, name):
            asked = getattr(model, name)
            if asked is None:
                model = model.clone(**{name: size})
            elif asked != size and (asked, size) != (1, 2):  # one logit tells two classes apart
                raise UserError(
                    f"model.{name} is {asked}, but data set {data.name!r} has {size}; leave it None"
                )
    optimizer = experiment.optimizer
    if optimizer.schedule in DEPEND_ON_LENGTH and optimizer.decay_steps is None:
        optimizer = dataclasses.replace(optimizer, decay_steps=experiment.num_steps)
    build_optimizer(optimizer)
    augment = _with_sizes(experiment.data.augment, data.sizes)
    return dataclasses.replace(
        experiment,
        model=model,
        optimizer=optimizer,
        objective=_with_class_names(experiment.objective, data),
        data=dataclasses.replace(experiment.data, augment=augment),
    )


def _with_sizes(value: Any, sizes: dict[str, int]) -> Any:
    """A partial, or several, in which what was bound to None is filled in where data know it."""
    if isinstance(value, tuple | list):
        return tuple(_with_sizes(item, sizes) for item in value)
    if not isinstance(value, functools.partial):
        return value
    filled = {
        name: sizes.get(name) if bound is None else _with_sizes(bound, sizes)
        for name, bound in value.keywords.items()
    }
    return functools.partial(value.func, **filled)


def _with_class_names(objective: Callable, data: DataSet) -> Callable:
    """An objective that was bound to `class_names=None` gets those of the data."""
    bound = objective.keywords if isinstance(objective, functools.partial) else {}
    if bound.get("class_names", ()) is not None:
        return objective
    return functools.partial(objective, class_names=data.class_names)


def conflicts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields in which a run to be continued (`before`, encoded) differs from what is asked.

    `num_steps` is free too; where a schedule depends on it, `optimizer.decay_steps` differs.
    `eval_every` is not where validation drives the schedule.
    """
    free = {*FREE, "num_steps"}
    if after["fields"]["optimizer"]["fields"]["schedule"] == "plateau":
        free.remove("eval_every")
    with contextlib.suppress(UserError):
        # A field that this code has added since has its default in a run from before.
        before = codec.encode(codec.decode(before))
    found = codec.differences(before, after)
    return {name: pair for name, pair in found.items() if name not in free}

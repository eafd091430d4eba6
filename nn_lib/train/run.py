"""A run made ready: an experiment with its data read, its functions built, its first state made."""

import contextlib
import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import flax
import flax.errors
import jax
import numpy as np
import optax

import nn_lib
from nn_lib import metrics
from nn_lib.checks import UserError, check_choice, first_line
from nn_lib.data import DataSet, load
from nn_lib.data.batches import training_batches
from nn_lib.decoding import stream
from nn_lib.optim import build_optimizer
from nn_lib.train import codec, memory, processes
from nn_lib.train.config import Experiment, check, resolve
from nn_lib.train.evaluation import evaluate, evaluating
from nn_lib.train.sharding import Layout
from nn_lib.train.state import TrainState, create_state
from nn_lib.train.step import make_eval_step, make_train_step
from nn_lib.train.transcription import Transcription, check_transcription


@dataclasses.dataclass
class Run:
    """An experiment with its data read, its functions built and its first state made.

    Attributes:
      experiment: with every field resolved.
      layout: where its arrays lie; `layout.put` takes a batch there.
      initial_state: before the first step; the first step takes its memory.
      parameters: how many the model has.
      metric_names: of the training metrics, in the order of a step's report.
      validation_metrics: what an evaluation gives a number for.
      train_step: jitted (`jax.stages.Wrapped`); the old state's memory becomes the new one's.
      eval_step: jitted.
      transcribe: how evaluations decode, jitted; None where they do not.
    """

    experiment: Experiment
    layout: Layout
    data: DataSet
    batches: Any
    initial_state: Any
    parameters: int
    metric_names: tuple[str, ...]
    validation_metrics: tuple[str, ...]
    train_step: Any
    eval_step: Callable
    transcribe: Callable | None

    @classmethod
    def prepare(cls, experiment: Experiment) -> "Run":
        """Reads the data and builds everything; raises UserError, writes nothing."""
        check(experiment)
        _check_same_program(experiment)
        layout = Layout.of(experiment.mesh)
        data = processes.on_all(lambda: load(experiment.data))
        _check_same_data(data)
        batches = training_batches(data, experiment.batch_size, experiment.seed, layout.process)
        experiment = resolve(experiment, data)
        model, objective = experiment.model, experiment.objective
        optimizer, schedule = build_optimizer(experiment.optimizer)
        _check_batches(experiment, batches.batch_size, data)
        layout.check_batch(batches.batch_size, experiment.accumulation)
        prepare = experiment.data.prepare_batch
        if batches.continuous and not hasattr(model, "initialize_carry"):
            raise UserError(
                f"the data is one long text, and {type(model).__name__} takes separate ones; say "
                "how the files hold them: --config.data.layout=labelled, folder, columns, pairs"
            )
        raw = layout.put(processes.on_all(lambda: batches.at(0)))

        def make_state(raw) -> TrainState:
            first = prepare(raw)
            carry = model.initialize_carry(len(first["inputs"])) if batches.continuous else None
            return create_state(
                model,
                objective,
                optimizer,
                first,
                carry,
                experiment.seed,
                ema=bool(experiment.ema_decay),
                smooth_loss=_loss_of_chance(experiment, data, first),
            )

        first = jax.eval_shape(prepare, raw)
        with _model_errors(model, first):
            abstract = jax.eval_shape(make_state, raw)
            shardings = layout.state(abstract)
            processes.on_all(lambda: memory.check_state(abstract, shardings))
            with memory.told_as_mistake(memory.STATE_REMEDIES):
                state = layout.make_state(make_state, raw, shardings)
            eval_step = make_eval_step(model, objective, prepare=prepare)
            measured = jax.eval_shape(eval_step, state.evaluated, raw, state.carry)[0]
        validation_metrics = tuple(metrics.numbers(measured))
        transcription = experiment.transcription
        if transcription:
            if data.target_vocabulary is None:
                raise UserError(
                    f"transcription is for pairs of texts, and data set {data.name!r} has none"
                )
            check_transcription(transcription)
            longest = int(data.split("train").target_edges[-1])
            if transcription.max_length < longest:
                raise UserError(
                    f"transcription.max_length is {transcription.max_length}, and targets have up "
                    f"to {longest} tokens; --config.transcription.max_length={longest} reads them"
                )
            with _model_errors(model, first):
                _check_transcription_runs(transcription, state.evaluated, first, model)
            validation_metrics += ("token_error_rate", "sequence_error_rate")
            if data.target_vocabulary.unit == "words":
                validation_metrics += ("bleu",)
        if "validation" in data.readers:
            check_choice("select_by", experiment.select_by, validation_metrics)
        train_step = make_train_step(
            model,
            objective,
            optimizer,
            schedule,
            prepare=prepare,
            augment=experiment.data.augment,
            frozen=experiment.optimizer.frozen,
            reduction=experiment.reduction,
            accumulation=experiment.accumulation,
            ema_decay=experiment.ema_decay,
            smooth_loss=experiment.smooth_loss,
            log_every=experiment.log_every,
            max_bad_steps=experiment.max_bad_steps,
            spread=layout.spread,
        )
        return cls(
            experiment=experiment,
            layout=layout,
            data=data,
            batches=batches,
            initial_state=state,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            metric_names=tuple(sorted(state.metrics)),
            validation_metrics=validation_metrics,
            train_step=layout.jit_step(train_step, state),
            eval_step=layout.jit_evaluation(eval_step),
            transcribe=layout.jit_replicated(transcription.compiled(model))
            if transcription
            else None,
        )

    def program(self, state: TrainState, batch: dict) -> str:
        """The text of the compiled training step for batches of this shape."""
        return self.train_step.lower(state, batch).compile().as_text()

    def sample(self, state: TrainState, step: int) -> str:
        """What a language model writes from its state before batch number `step`."""
        batch = self.batches.at(step)
        first = int(np.argmax(batch["mask"][0]))  # what lies before the text is masked
        variables, carry = state.evaluated, state.carry
        if not self.layout.one_device:
            variables, carry = self.layout.fetch((variables, carry))
        if batch["reset"][0, first]:
            carry = None
        carry = jax.tree.map(lambda leaf: leaf[:1], carry)
        tokens = stream(
            self.experiment.model,
            variables,
            batch["inputs"][0, first : first + 1],
            self.experiment.sample_length,
            seed=step,
            carry=carry,
        )
        assert self.data.vocabulary is not None
        return self.data.vocabulary.decode(np.concatenate(list(tokens)))

    def measure(self, state: TrainState, split: str) -> dict[str, tuple]:
        """{name: (sum, count)} over a split."""
        return evaluate(**self._evaluation(state, split))

    def measuring(self, state: TrainState, split: str) -> Generator[None, None, dict[str, tuple]]:
        """As `measure`, batch by batch."""
        return evaluating(**self._evaluation(state, split))

    def _evaluation(self, state: TrainState, split: str) -> dict[str, Any]:
        return {
            "eval_step": self.eval_step,
            "variables": state.evaluated,
            "model": self.experiment.model,
            "data": self.data,
            "split": split,
            "batch_size": self.experiment.eval_batch_size,
            "layout": self.layout,
            "transcribe": self.transcribe,
        }


def _check_same_program(experiment: Experiment) -> None:
    """Of several processes; one that computed something else would spoil the state of all."""
    if jax.process_count() > 1:
        path = experiment.data.path and ""  # copies on each machine are fine
        data = dataclasses.replace(experiment.data, data_dir=None, path=path, workers=0)
        encoded = codec.encode(dataclasses.replace(experiment, data=data))
        config = json.dumps(encoded, sort_keys=True).encode()
        advice = "start all with the same command and the same configs/"
        processes.check_same("the config", zlib.crc32(config), advice)
        versions = f"{jax.__version__} {flax.__version__} {optax.__version__}".encode()
        sources = sorted(Path(nn_lib.__file__).parent.rglob("*.py"))
        code = zlib.crc32(b"".join(file.read_bytes() for file in sources), zlib.crc32(versions))
        advice = "check out the same commit, and install the same jax, flax and optax, everywhere"
        processes.check_same("the code", code, advice)


def _check_same_data(data: DataSet) -> None:
    if jax.process_count() > 1:
        fingerprint = processes.on_all(data.fingerprint)
        advice = "give all of them the same files at data.data_dir or data.path"
        processes.check_same("the training data", fingerprint, advice)


def _check_transcription_runs(how: Transcription, variables, batch: dict, model) -> None:
    """Decoding is traced once before training, so that it does not fail hours later."""
    jax.eval_shape(how.compiled(model), variables, batch["inputs"], batch["input_mask"])


def _loss_of_chance(experiment: Experiment, data: DataSet, batch: dict) -> float | None:
    """Where the smooth loss begins: ln V for each prediction of a model that knows nothing."""
    if not experiment.smooth_loss:
        return None
    choices = next(
        (data.sizes[k] for k in ("target_size", "num_classes", "vocab_size") if k in data.sizes),
        None,
    )
    if choices is None or (data.class_names is None and data.vocabulary is None):
        raise UserError(
            "smooth_loss begins at the loss of chance, which a regression has not; set it to 0"
        )
    predictions = batch.get("targets", batch["mask"]).size
    return math.log(choices) * (predictions if experiment.reduction == "sum" else 1)


@contextlib.contextmanager
def _model_errors(model, batch: dict) -> Iterator[None]:
    """What Flax and JAX say when a model does not fit the data, as a mistake in the experiment."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, flax.errors.FlaxError) as error:
        inputs = batch["inputs"]
        detail = first_line(error, 300)
        raise UserError(
            f"{type(model).__name__} cannot be initialised on inputs {inputs.dtype}"
            f"{list(inputs.shape)}: {detail} (--debug shows where)"
        ) from error


def _check_batches(experiment: Experiment, batch_size: int, data: DataSet) -> None:
    """What only the data tells to be a mistake."""
    if batch_size % experiment.accumulation:
        raise UserError(
            f"accumulation {experiment.accumulation} does not divide the batch of {batch_size}; "
            "choose a divisor, or another batch_size"
        )
    if experiment.sample_every and not data.sequence_length:
        raise UserError(
            "sample_every is for language models; the data here is no text to go on with"
        )
    if experiment.optimizer.schedule == "plateau":
        if "validation" not in data.readers:
            raise UserError(
                "the plateau schedule needs a validation split, and there is none; set "
                "data.validation_split, or another optimizer.schedule"
            )
        if not experiment.eval_every:
            raise UserError("the plateau schedule needs eval_every above 0, got 0")

"""The one training loop: `fit` runs any experiment, resumes it exactly, writes what it found."""

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.errors
import jax

from nn_lib import metrics
from nn_lib.checks import UserError, check_choice
from nn_lib.data import DataSet, load
from nn_lib.data.batches import prefetch, training_batches
from nn_lib.optim import build_optimizer, plateau
from nn_lib.train import codec, pictures
from nn_lib.train import workdir as files
from nn_lib.train.checkpoint import Checkpoints, Damaged
from nn_lib.train.config import Experiment, check, resolve
from nn_lib.train.evaluation import evaluate
from nn_lib.train.interrupt import Interrupted, stop_on_signals
from nn_lib.train.state import STEP_METRICS, TrainState, create_state
from nn_lib.train.step import make_eval_step, make_train_step
from nn_lib.train.writer import Progress, Writer

log = logging.getLogger("nn_lib")


class Diverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that was not finite."""


def fit(experiment: Experiment, workdir: str | Path, *, quiet: bool = False) -> dict[str, Any]:
    """Trains the experiment in its work directory, or continues it there, and evaluates it.

    The same call after a kill at any moment ends with the same bits, on the same kind of device.

    Returns:
      The content of `summary.json`: `{"test": {"accuracy": ..., "loss": ...}, ...}`.

    Raises:
      UserError: a mistake in the experiment, its data or the directory; nothing was written.
      Interrupted: SIGTERM or SIGINT; the state was saved first.
      Diverged: `max_bad_steps` steps in a row were not finite; the last checkpoint is intact.
    """
    run = Run.prepare(experiment)
    with files.claim(workdir, run.experiment, files.DataFacts.of(run.data)) as path:
        checkpoints = Checkpoints(path / files.CHECKPOINTS, keep=run.experiment.keep_checkpoints)
        try:
            with stop_on_signals() as stop:
                state, best = _train(run, path, checkpoints, stop, quiet)
                if stop.number is not None:
                    raise Interrupted(stop.number, int(state.step))
            return _finish(run, path, checkpoints, state, best)
        finally:
            checkpoints.close()


@dataclasses.dataclass
class Run:
    """An experiment with its data read, its functions built and its first state made.

    Attributes:
      experiment: with every field resolved.
      initial_state: before the first step; the first step takes its memory.
      parameters: how many the model has.
      metric_names: of the training metrics, in the order of a step's report.
      train_step: jitted; the old state's memory becomes the new one's.
      eval_step: jitted.
    """

    experiment: Experiment
    data: DataSet
    batches: Any
    initial_state: Any
    parameters: int
    metric_names: tuple[str, ...]
    train_step: Callable
    eval_step: Callable

    @classmethod
    def prepare(cls, experiment: Experiment) -> "Run":
        """Reads the data and builds everything; raises UserError, writes nothing."""
        check(experiment)
        data = load(experiment.data)
        process = (jax.process_index(), jax.process_count())
        batches = training_batches(data, experiment.batch_size, experiment.seed, process)
        experiment = resolve(experiment, data)
        model, objective = experiment.model, experiment.objective
        optimizer, schedule = build_optimizer(experiment.optimizer)
        _check_batches(experiment, batches.batch_size, data)
        prepare = experiment.data.prepare_batch
        first = prepare(batches.at(0))
        with _model_errors(model, first):
            carry = model.initialize_carry(len(first["inputs"])) if batches.continuous else None
            state = create_state(
                model,
                objective,
                optimizer,
                first,
                carry,
                experiment.seed,
                ema=bool(experiment.ema_decay),
            )
            eval_step = make_eval_step(model, objective, prepare=prepare)
            measured = jax.eval_shape(eval_step, state.evaluated, batches.at(0), carry)[0]
        if "validation" in data.readers:
            check_choice("select_by", experiment.select_by, metrics.numbers(measured))
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
            log_every=experiment.log_every,
            max_bad_steps=experiment.max_bad_steps,
        )
        return cls(
            experiment=experiment,
            data=data,
            batches=batches,
            initial_state=state,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            metric_names=tuple(sorted(state.metrics)),
            train_step=jax.jit(train_step, donate_argnums=0),
            eval_step=jax.jit(eval_step),
        )

    def measure(self, state: TrainState, split: str) -> dict[str, tuple]:
        """{name: (sum, count)} over a split."""
        size = self.experiment.eval_batch_size
        model = self.experiment.model
        return evaluate(self.eval_step, state.evaluated, model, self.data, split, size)


@dataclasses.dataclass
class Best:
    """The best validation metric so far, over finite values only, and its step."""

    step: int | None = None
    value: float | None = None

    def improved_by(self, value: float, mode: str) -> bool:
        if not math.isfinite(value):
            return False
        return self.value is None or (value > self.value if mode == "max" else value < self.value)


def _train(run: Run, path: Path, checkpoints: Checkpoints, stop, quiet: bool):
    """Runs the remaining steps; returns the state and the best, both of them saved."""
    experiment = run.experiment
    state, best, start = _resume(run, checkpoints)
    writer = Writer(path, start=start)
    progress = Progress(
        start=start, stop=experiment.num_steps, batch_size=run.batches.batch_size, quiet=quiet
    )
    progress.say(_headline(run, path, start))
    lines = _TrainingLog(run, writer, progress, start)
    validate = "validation" in run.data.readers
    try:
        for step, batch in enumerate(prefetch(run.batches, start, experiment.num_steps), start + 1):
            state, report = run.train_step(state, batch)
            progress.advance()
            lines.write()  # the line of an earlier step, while this one runs
            last = step == experiment.num_steps
            if last or step % experiment.log_every == 0:
                lines.hold(step, report)

            new_best = False
            if validate and (last or _due(step, experiment.eval_every)):
                lines.write()
                with lines.pause("evaluate", step):
                    values = metrics.means(run.measure(state, "validation"))
                writer.metrics(step, "validation", values)
                value = values[experiment.select_by]
                new_best = best.improved_by(value, experiment.select_mode)
                if new_best:
                    best = Best(step, value)
                    checkpoints.best_step = step
                if _due(step, experiment.eval_every):  # not at the end of a run cut short
                    state = _after_validation(run, state, value)

            asked = stop.number is not None
            if last or asked or new_best or _due(step, experiment.checkpoint_every):
                lines.write()
                _stop_if_diverged(run, int(state.bad_steps), step)
                with lines.pause("checkpoint", step):
                    checkpoints.save(step, state, _note(run, best))
            if asked:
                break
        checkpoints.wait()
    finally:
        progress.close()
        writer.close()
    return state, best


class _TrainingLog:
    """Writes the lines of training metrics one step late, so that no step waits for the disk."""

    def __init__(self, run: Run, writer: Writer, progress: Progress, start: int):
        self._run, self._writer, self._progress = run, writer, progress
        self._held: tuple[int, dict] | None = None
        self._step, self._clock = start, time.monotonic()

    def hold(self, step: int, report: dict) -> None:
        """Keeps the report of a step to be written."""
        self._held = (step, report)

    def write(self) -> None:
        """Writes what is held, if anything; waits for its step to be done."""
        if self._held is None:
            return
        step, report = self._held
        self._held = None
        report = jax.device_get(report)
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._clock, 1e-9)
        self._step, self._clock = step, now
        values = metrics.means(dict(zip(self._run.metric_names, report["metrics"])))
        values["learning_rate"] = float(report["learning_rate"])
        values["skipped_steps"] = int(report["skipped_steps"])
        self._writer.metrics(step, "train", values)
        examples = rate * self._run.batches.batch_size
        self._writer.timing(step, "train", steps_per_second=rate, examples_per_second=examples)
        self._progress.note({"loss": values["loss"]})
        _stop_if_diverged(self._run, int(report["bad_steps"]), step)

    @contextlib.contextmanager
    def pause(self, event: str, step: int) -> Iterator[None]:
        """Times something that is not training, and leaves it out of the steps a second."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._clock += seconds
        self._writer.timing(step, event, seconds=seconds)


def _after_validation(run: Run, state: TrainState, value: float) -> TrainState:
    """The state with what a validation changes in it: a plateau schedule's learning rate."""
    optimizer = run.experiment.optimizer
    if optimizer.schedule != "plateau":
        return state
    opt_state = plateau.observe(
        state.opt_state,
        value,
        factor=optimizer.decay_rate,
        patience=optimizer.patience,
        mode=run.experiment.select_mode,
    )
    return dataclasses.replace(state, opt_state=opt_state)


def _resume(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, Best, int]:
    """The newest intact state, or the initial one, with the best so far and the step."""
    initial, run.initial_state = run.initial_state, None  # so that its memory can be freed
    found = checkpoints.restore_latest(initial)
    if found is None:
        return initial, Best(), 0
    step, state, note = found
    best = Best(**note["best"])
    checkpoints.best_step = best.step
    return state, best, step


def _finish(run: Run, path: Path, checkpoints: Checkpoints, state: TrainState, best: Best):
    """Evaluates on every split, draws the pictures, writes the summary."""
    experiment = run.experiment
    if experiment.evaluate_with == "best" and best.step not in (None, int(state.step)):
        try:
            state, _ = checkpoints.restore(best.step, state)
        except Damaged as damage:
            log.warning("checkpoint %d, the best, %s; evaluating the last", best.step, damage)
    summary: dict[str, Any] = {
        "parameters": run.parameters,
        "steps": experiment.num_steps,
        "evaluated_step": int(state.step),
        "skipped_steps": int(state.skipped_steps),
    }
    for split in ("validation", "test"):
        if split in run.data.readers:
            pairs = run.measure(state, split)
            summary[split] = metrics.means(pairs)
            if "confusion" in pairs:
                names = run.data.class_names
                pictures.confusion_matrix(path, pairs["confusion"][0], names, split)
    shown = [name for name in run.metric_names if name not in (*STEP_METRICS, "perplexity")]
    pictures.learning_curve(path, tuple(shown))
    files.write_atomically(path / files.SUMMARY, json.dumps(summary, indent=2))
    return summary


@contextlib.contextmanager
def _model_errors(model, batch: dict) -> Iterator[None]:
    """What Flax and JAX say when a model does not fit the data, as a mistake in the experiment."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, flax.errors.FlaxError) as error:
        inputs = batch["inputs"]
        detail = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{type(model).__name__} cannot be initialised on inputs {inputs.dtype}"
            f"{list(inputs.shape)}: {detail[:300]} (--debug shows where)"
        ) from error


def _check_batches(experiment: Experiment, batch_size: int, data: DataSet) -> None:
    """What only the data tells to be a mistake."""
    local = batch_size // jax.process_count()
    if local % experiment.accumulation:
        raise UserError(
            f"accumulation {experiment.accumulation} does not divide the batch of {local}; choose "
            "a divisor, or another batch_size"
        )
    if experiment.optimizer.schedule == "plateau":
        if "validation" not in data.readers:
            raise UserError(
                "the plateau schedule needs a validation split, and there is none; set "
                "data.validation_split, or another optimizer.schedule"
            )
        if not experiment.eval_every:
            raise UserError("the plateau schedule needs eval_every above 0, got 0")


def _stop_if_diverged(run: Run, bad_steps: int, step: int) -> None:
    if bad_steps >= run.experiment.max_bad_steps:
        raise Diverged(
            f"the loss or its gradient was not finite in {run.experiment.max_bad_steps} steps in a "
            f"row (seen at step {step}); checkpoints saved before are intact. Lower "
            "optimizer.learning_rate or set optimizer.clip_norm, in a new --workdir"
        )


def _note(run: Run, best: Best) -> dict[str, Any]:
    """What a checkpoint remembers beside the state."""
    vocabulary = run.data.vocabulary
    return {
        "best": dataclasses.asdict(best),
        "experiment": codec.encode(run.experiment),
        "vocabulary": vocabulary and list(vocabulary.characters),
    }


def _headline(run: Run, path: Path, start: int) -> str:
    device = jax.devices()[0]
    begin = f"resumes at step {start:,}" if start else "starts"
    return (
        f"{type(run.experiment.model).__name__} with {run.parameters:,} parameters on "
        f"{run.data.name}: {begin}, {run.experiment.num_steps:,} steps, {jax.device_count()} x "
        f"{device.device_kind}, work directory {path}"
    )


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0

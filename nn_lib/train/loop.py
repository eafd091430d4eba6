"""The one training loop: `fit` runs any experiment, resumes it exactly, writes what it found."""

import contextlib
import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import Any

import jax

from nn_lib import metrics
from nn_lib.data.batches import prefetch
from nn_lib.optim import plateau
from nn_lib.train import codec, data_errors, files, memory, pictures, processes, tracing
from nn_lib.train.checkpoint import Checkpoints, Damaged
from nn_lib.train.config import Experiment
from nn_lib.train.interrupt import Interrupted, stop_on_signals
from nn_lib.train.run import Run
from nn_lib.train.state import STEP_METRICS, TrainState
from nn_lib.train.training_log import Diverged, TrainingLog, stop_if_diverged
from nn_lib.train.validation import Best, Judged, Validations
from nn_lib.train.watchdog import STEP_LIMIT, Watchdog
from nn_lib.train.workdir import CHECKPOINTS, PROFILE, SUMMARY, DataFacts, claim
from nn_lib.train.writer import NoWriter, Progress, Writer

log = logging.getLogger("nn_lib")


def fit(
    experiment: Experiment,
    workdir: str | Path,
    *,
    quiet: bool = False,
    profile: tracing.Steps | None = None,
    step_limit: float = STEP_LIMIT,
) -> dict[str, Any]:
    """Trains the experiment in its work directory, or continues it there, and evaluates it.

    The same call after a kill at any moment ends with the same bits, on the same kind of device.
    Of several processes each makes the same call; the first one writes, and all return the same.

    Args:
      profile: steps that are traced into the folder `profile` of the work directory, where the run
        is not past the first of them.
      step_limit: seconds after which a step that has not ended is reported (`Watchdog`).

    Returns:
      The content of `summary.json`: `{"test": {"accuracy": ..., "loss": ...}, ...}`.

    Raises:
      UserError: a mistake in the experiment, its data or the directory; nothing was written.
      Interrupted: SIGTERM or SIGINT; the state was saved first.
      SaveFailed: no space left, say; the last checkpoint is intact.
      Diverged: `max_bad_steps` steps in a row were not finite; the last checkpoint is intact.
    """
    path = Path(workdir).expanduser()
    with memory.told_as_mistake(), contextlib.ExitStack() as stack:
        run = Run.prepare(experiment)
        processes.on_first(lambda: stack.enter_context(_claim(run, path)))
        processes.check_shared(path)
        data_errors.remember(run.data.bad, path)
        checkpoints = Checkpoints(path / CHECKPOINTS, keep=run.experiment.keep_checkpoints)
        try:
            with Watchdog(step_limit) as watchdog:
                with stop_on_signals() as request:
                    stop = processes.Stop(request, run.layout.mesh)
                    state, best = _train(run, path, checkpoints, stop, quiet, profile, watchdog)
                    if stop.number is not None:
                        raise Interrupted(stop.number, int(state.step))
                watchdog.begin("evaluate", int(state.step))
                return _finish(run, path, checkpoints, state, best)
        finally:
            checkpoints.close()


def _claim(run: Run, path: Path):
    return claim(path, run.experiment, DataFacts.of(run.data))


def _train(
    run: Run,
    path: Path,
    checkpoints: Checkpoints,
    stop: processes.Stop,
    quiet: bool,
    profile: tracing.Steps | None,
    watchdog: Watchdog,
):
    """Runs the remaining steps; returns the last state that is saved, and the best."""
    experiment = run.experiment
    watchdog.begin("restore", 0)
    state, best, start, validated = _resume(run, checkpoints)
    traces = tracing.still_ahead(profile, start, experiment.num_steps)
    first = processes.first()
    writer = Writer(path, start=start, validated=validated) if first else NoWriter()
    progress = Progress(
        start=start,
        stop=experiment.num_steps,
        batch_size=run.batches.batch_size,
        quiet=quiet or not first,
    )
    progress.say(_headline(run, path, start))
    if profile and not traces:
        progress.say(f"no trace: the run is past step {profile.start}, where it would have begun")
    lines = TrainingLog(run, writer, progress, start, watchdog)
    tracer = tracing.Tracer(
        profile if first and traces else None,
        path / PROFILE,
        progress.say,
        lambda batch: run.program(state, batch),
    )
    batches = map(run.layout.put, prefetch(run.batches, start, experiment.num_steps))
    validations = Validations(run, best, writer, lines, lambda: stop.asked(checkpoints.failed))
    validate = "validation" in run.data.readers
    overlap = experiment.eval_overlap and experiment.optimizer.schedule != "plateau"

    def save(step: int, state: TrainState, validated: bool = True) -> None:
        stop_if_diverged(run, int(state.bad_steps), step)
        with lines.pause("checkpoint", step):
            checkpoints.best_step = validations.best.step
            writer.to_disk()
            checkpoints.save(step, state, _note(run, validations.best, validated))

    def save_if_due(judged: Judged | None) -> None:
        """Does what waited for a validation, unless that was stopped."""
        if judged and (
            judged.is_best
            or judged.step == experiment.num_steps
            or _due(judged.step, experiment.checkpoint_every)
        ):
            save(judged.step, judged.state)

    try:
        if not validated:
            save_if_due(validations.at_once(start, state))
            if validations.unfinished:
                return state, best
        for step, batch in tracer.traced(lines.batches(batches)):
            if step == start + 1:
                copy_fits = processes.on_all(
                    functools.partial(memory.check, run.train_step, state, batch, progress.say)
                )
                overlap = overlap and processes.on_every(copy_fits)
            state, report = run.train_step(state, batch)
            lines.dispatched(report)
            tracer.latest = report
            progress.advance()
            if validations.advance():
                save_if_due(validations.conclude())
            lines.write()  # the line of an earlier step, while this one runs
            last = step == experiment.num_steps
            if last or step % experiment.log_every == 0:
                lines.hold(step, report)
                checkpoints.check()

            save_now = last or _due(step, experiment.checkpoint_every)
            validate_now = validate and (last or _due(step, experiment.eval_every))
            if validate_now or save_now:  # of an earlier step, with more batches than steps since
                save_if_due(validations.conclude())
            if validate_now and not validations.unfinished:
                if overlap and not last:
                    validations.begin(step, state)
                    save_now = False  # but with what is found
                elif judged := validations.at_once(step, state):
                    save_now = save_now or judged.is_best
                    if _due(step, experiment.eval_every):  # not at the end of a run cut short
                        state = _after_validation(run, state, judged.value)

            if _due(step, experiment.sample_every):
                lines.write()
                with lines.pause("sample", step):
                    text = run.sample(state, step)
                writer.sample(step, text)
                progress.say(f"----\n{text}\n----")

            asked = stop.asked(checkpoints.failed)
            if asked and validations.unfinished:
                step, state = validations.unfinished  # what came since is computed again
                save(step, state, validated=False)
            elif asked or save_now:
                lines.write()
                save(step, state)
            if asked:
                break
        with lines.pause("checkpoint", int(state.step)):
            checkpoints.wait()
    except Diverged:
        save_if_due(validations.conclude())  # so that the lines that wait for it are written
        raise
    finally:
        lines.close()
        progress.close()
        writer.close()
    return state, validations.best


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


def _resume(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, Best, int, bool]:
    """The newest intact state, or the initial one, with the best so far, the step, and whether the
    validation that is due there has been concluded."""
    initial, run.initial_state = run.initial_state, None
    if not processes.as_on_first(len(checkpoints.steps())):
        return initial, Best(), 0, True
    found = checkpoints.restore_latest(_freed(initial))
    assert found is not None
    step, state, note = found
    best = Best(**note["best"])
    checkpoints.best_step = best.step
    return state, best, step, note.get("validated", True)


def _freed(state: TrainState) -> TrainState:
    """Its shapes and places; two states at a time are more than a device may hold."""
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    jax.tree.map(lambda x: x.delete(), state)
    return abstract


def _finish(run: Run, path: Path, checkpoints: Checkpoints, state: TrainState, best: Best):
    """Evaluates on every split, draws the pictures, writes the summary."""
    experiment = run.experiment
    last = int(state.step)
    if experiment.evaluate_with == "best" and best.step not in (None, last):
        abstract = _freed(state)
        try:
            state, _ = checkpoints.restore(best.step, abstract)
        except Damaged as damage:
            log.warning("checkpoint %d, the best, %s; evaluating the last", best.step, damage)
            state, _ = checkpoints.restore(last, abstract)
    summary: dict[str, Any] = {
        "parameters": run.parameters,
        "steps": experiment.num_steps,
        "evaluated_step": int(state.step),
        "skipped_steps": int(state.skipped_steps),
    }
    confusion = {}
    for split in ("validation", "test"):
        if split in run.data.readers:
            pairs = run.measure(state, split)
            summary[split] = metrics.means(pairs)
            if "confusion" in pairs:
                confusion[split] = pairs["confusion"][0]
    if run.data.bad is not None:
        summary["bad_examples"] = processes.as_on_first(data_errors.count(path))
    failure = None
    if processes.first():
        try:
            checkpoints.check()  # evaluations take their time
            for split, matrix in confusion.items():
                pictures.confusion_matrix(path, matrix, run.data.class_names, split)
            shown = [name for name in run.metric_names if name not in (*STEP_METRICS, "perplexity")]
            pictures.learning_curve(path, tuple(shown))
            files.write_atomically(path / SUMMARY, json.dumps(summary, indent=2))
        except files.SaveFailed as error:
            failure = error
    if not processes.on_every(failure is None):  # the others wait: JAX ends them after a minute
        raise failure or files.SaveFailed("process 0 could not write the summary and the pictures")
    return summary


def _note(run: Run, best: Best, validated: bool) -> dict[str, Any]:
    """What a checkpoint remembers beside the state."""
    source, target = run.data.vocabulary, run.data.target_vocabulary
    return {
        "best": dataclasses.asdict(best),
        "validated": validated,
        "experiment": codec.encode(run.experiment),
        "vocabulary": source and source.to_json(),
        "target_vocabulary": target and target.to_json(),
    }


def _headline(run: Run, path: Path, start: int) -> str:
    begin = f"resumes at step {start:,}" if start else "starts"
    return (
        f"{type(run.experiment.model).__name__} with {run.parameters:,} parameters on "
        f"{run.data.name}: {begin}, {run.experiment.num_steps:,} steps, {run.layout}, "
        f"work directory {path}"
    )


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0

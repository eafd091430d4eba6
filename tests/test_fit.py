"""`fit` from end to end on small experiments, in this process."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from nn_lib.data import DataConfig
from nn_lib.data.batches import ExampleBatches
from nn_lib.models import MLP
from nn_lib.objectives import detect, regress
from nn_lib.optim import OptimizerConfig
from nn_lib.train import fit, restore
from nn_lib.train.checkpoint import Checkpoints
from nn_lib.train.interrupt import Interrupted
from nn_lib.train.run import Run
from nn_lib.train.training_log import Diverged
from nn_lib.train.validation import Best
from tests.small_runs import final_leaves, lines, poison, small, text_experiment

pytestmark = pytest.mark.usefixtures("undrawn")

NAN = float("nan")


def test_a_run_leaves_everything_that_was_promised(tmp_path):
    summary = fit(small(), tmp_path / "run", quiet=True)
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"config.json", "data.json", "metrics.jsonl", "timings.jsonl", "summary.json"} <= names
    assert {"learning_curve.png", "confusion_test.png", "confusion_validation.png"} <= names
    assert any(name.startswith("events") for name in names)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"accuracy", "loss"} <= set(summary["test"])
    found = lines(tmp_path / "run")
    assert [(r["step"], r["split"]) for r in found] == [
        *[(5, "train"), (10, "train"), (10, "validation")],
        *[(15, "train"), (20, "train"), (20, "validation")],
    ]
    assert {"learning_rate", "gradient_norm", "update_to_weight", "loss"} <= set(found[0])
    assert found[0]["learning_rate"] == pytest.approx(1e-2)
    timings = [json.loads(t) for t in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    assert {t["event"] for t in timings} == {"train", "evaluate", "checkpoint"}
    assert all(t["steps_per_second"] > 0 for t in timings if t["event"] == "train")


def test_two_runs_are_equal_and_another_seed_is_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(small(seed=seed), tmp_path / name, quiet=True)
    text = [(tmp_path / name / "metrics.jsonl").read_text() for name in "abc"]
    assert text[0] == text[1] != text[2]


@pytest.mark.slow
def test_a_longer_run_continues_a_shorter_one_as_if_it_had_never_stopped(tmp_path):
    fit(small(num_steps=12), tmp_path / "a", quiet=True)
    fit(small(num_steps=20), tmp_path / "a", quiet=True)
    fit(small(num_steps=20), tmp_path / "b", quiet=True)
    ours, theirs = (final_leaves(tmp_path / name, 20) for name in "ab")
    for path, leaf in ours.items():
        if not path.startswith("metrics"):
            np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


def test_the_restored_model_scores_what_the_summary_says(tmp_path):
    summary = fit(small(), tmp_path, quiet=True)
    trained = restore(tmp_path)
    assert trained.step == summary["evaluated_step"]
    pairs = trained.evaluate("test")
    assert float(pairs["accuracy"][0] / pairs["accuracy"][1]) == summary["test"]["accuracy"]
    test = trained.experiment.data
    assert test.name == "digits" and trained.experiment.model.num_classes == 10


def test_the_best_checkpoint_is_that_of_the_best_validation_line(tmp_path):
    summary = fit(small(num_steps=60, eval_every=5, checkpoint_every=0), tmp_path, quiet=True)
    scores = {r["step"]: r["accuracy"] for r in lines(tmp_path) if r["split"] == "validation"}
    assert summary["evaluated_step"] == max(scores, key=lambda step: (scores[step], -step))
    assert summary["validation"]["accuracy"] == max(scores.values())


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("max", [1.0, float("nan"), 3.0, 2.0, float("inf")], 3.0),
        ("min", [2.0, float("nan"), 1.0], 1.0),
    ],
)
def test_a_value_that_is_not_finite_is_never_the_best(mode, values, expected):
    best = Best()
    for step, value in enumerate(values):
        if best.improved_by(value, mode):
            best = Best(step, value)
    assert best.value == expected


def test_the_test_split_is_read_by_the_final_evaluation_only(tmp_path, monkeypatch):
    read = []
    original = Run.measure

    def measure(self, state, split):
        read.append((split, int(state.step)))
        return original(self, state, split)

    monkeypatch.setattr(Run, "measure", measure)
    fit(small(), tmp_path, quiet=True)
    assert [split for split, _ in read].count("test") == 1
    assert read[-1][0] == "test"


def test_a_data_set_without_validation_is_trained_and_its_last_state_tested(tmp_path):
    data = DataConfig(name="mnist1d", train_split="train", validation_split="")
    summary = fit(small(data=data), tmp_path, quiet=True)
    assert "validation" not in summary and summary["evaluated_step"] == 20


def test_the_whole_training_split_can_be_one_batch(tmp_path):
    fit(small(batch_size=0, num_steps=2, eval_every=0), tmp_path, quiet=True)
    assert [r["step"] for r in lines(tmp_path) if r["split"] == "train"] == [2]


@pytest.mark.parametrize("log_every", [1, 20])
def test_a_diverging_run_stops_with_its_last_good_checkpoint(tmp_path, monkeypatch, log_every):
    poison(monkeypatch, 7, 8, 9)  # a streak that is over before the next line may be due
    with pytest.raises(Diverged, match=r"not finite in 3 steps in a row .* are intact"):
        fit(small(max_bad_steps=3, log_every=log_every), tmp_path, quiet=True)
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert checkpoints.steps() == [5]
    leaves, _ = checkpoints.read(5)
    checkpoints.close()
    assert all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in leaves.values())


def test_skipped_steps_at_an_evaluation_and_at_the_end_are_saved_like_others(tmp_path, monkeypatch):
    poison(monkeypatch, 9, 19)
    summary = fit(small(), tmp_path, quiet=True)
    assert summary["skipped_steps"] in (1, 2)
    assert final_leaves(tmp_path, 20)["skipped_steps"] == 2
    assert restore(tmp_path).step == summary["evaluated_step"]


def test_when_the_best_checkpoint_is_damaged_the_last_is_evaluated(tmp_path, caplog):
    worst_is_best = small(num_steps=60, eval_every=5, checkpoint_every=0, select_mode="min")
    fit(worst_is_best, tmp_path, quiet=True)
    best = restore(tmp_path).step
    assert best < 60
    (tmp_path / "checkpoints" / str(best) / "state" / "manifest.ocdbt").write_bytes(b"")
    summary = fit(worst_is_best, tmp_path, quiet=True)
    assert summary["evaluated_step"] == 60 and f"checkpoint {best}, the best," in caplog.text


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_first_and_the_run_goes_on_to_the_same_end(tmp_path, monkeypatch, number):
    good = ExampleBatches.at

    def interrupting(self, step):
        if step == 7:
            os.kill(os.getpid(), number)
        return good(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(ExampleBatches, "at", interrupting)
        with pytest.raises(Interrupted) as stopped:
            fit(small(), tmp_path / "a", quiet=True)
    assert stopped.value.signal == number and stopped.value.step in (7, 8)
    fit(small(), tmp_path / "a", quiet=True)
    fit(small(), tmp_path / "b", quiet=True)
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (
        tmp_path / "b/metrics.jsonl"
    ).read_bytes()
    ours, theirs = (final_leaves(tmp_path / name, 20) for name in "ab")
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)


@pytest.mark.slow
def test_streaming_instead_of_holding_the_data_is_the_same_run(tmp_path):
    fit(small(num_steps=10), tmp_path / "a", quiet=True)
    streamed = dataclasses.replace(small().data, in_memory_limit=0)
    fit(small(data=streamed), tmp_path / "a", quiet=True)
    fit(small(), tmp_path / "b", quiet=True)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_half_a_line_and_lines_beyond_the_checkpoint_are_dropped_on_resume(tmp_path):
    fit(small(), tmp_path, quiet=True)
    metrics = tmp_path / "metrics.jsonl"
    before = metrics.read_text()
    metrics.write_text(before + '{"step": 25, "split": "train"}\n{"step": 3')
    fit(small(), tmp_path, quiet=True)
    assert metrics.read_text() == before


def resumed_and_undisturbed(tmp_path, experiment, stop_at):
    """The final leaves of a run stopped by a signal and continued, and of one left alone."""
    fit(experiment, tmp_path / "alone", quiet=True)
    original = Run.prepare

    def stopping(experiment):
        run = original(experiment)
        step, calls = run.train_step, []

        def counted(state, batch):
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, batch)

        counted.lower = step.lower  # the step's memory is looked at before it runs
        run.train_step = counted
        return run

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Run, "prepare", stopping)
        fit(experiment, tmp_path / "stopped", quiet=True)
    fit(experiment, tmp_path / "stopped", quiet=True)
    last = experiment.num_steps
    return final_leaves(tmp_path / "stopped", last), final_leaves(tmp_path / "alone", last)


@pytest.mark.slow
def test_plateau_average_and_accumulation_are_saved_and_resumed_exactly(tmp_path):
    optimizer = OptimizerConfig(
        name="nesterov",
        variant="lookahead",
        learning_rate=0.5,
        schedule="plateau",
        patience=1,
        decay_rate=0.5,
        frozen=("Dense_1.bias",),
        rates=(("Dense_0", 0.1),),
    )
    experiment = small(
        optimizer=optimizer, eval_every=2, ema_decay=0.9, accumulation=4, checkpoint_every=0
    )
    stopped, alone = resumed_and_undisturbed(tmp_path, experiment, stop_at=11)
    assert stopped.keys() == alone.keys()
    for path, leaf in stopped.items():
        np.testing.assert_array_equal(leaf, alone[path], err_msg=path)
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("stopped", "alone")]
    assert texts[0] == texts[1]
    rates = [r["learning_rate"] for r in lines(tmp_path / "alone") if r["split"] == "train"]
    assert 0 < rates[-1] < 0.5, "no plateau was met"
    assert any(path.startswith("ema.") for path in alone)


def test_what_is_evaluated_and_restored_is_the_moving_average(tmp_path):
    summary = fit(small(ema_decay=0.9, evaluate_with="last"), tmp_path, quiet=True)
    leaves = final_leaves(tmp_path, 20)
    trained = restore(tmp_path, checkpoint="last")
    kernel = trained.variables["params"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(kernel, leaves["ema.Dense_0.kernel"])
    assert not np.array_equal(kernel, leaves["params.Dense_0.kernel"])
    pairs = trained.evaluate("test")
    assert float(pairs["accuracy"][0] / pairs["accuracy"][1]) == summary["test"]["accuracy"]


def test_a_regression_is_selected_and_reported_by_its_own_metrics(tmp_path):
    data = DataConfig(name="wave")
    experiment = small(
        data=data,
        objective=regress,
        model=MLP(hidden=(16,)),
        num_steps=200,
        eval_every=100,
        checkpoint_every=0,
        select_by="r2",
    )
    summary = fit(experiment, tmp_path, quiet=True)
    assert set(summary["test"]) == {"loss", "mean_absolute_error", "r2"}
    assert 0.2 < summary["test"]["r2"] <= 1
    assert restore(tmp_path).experiment.model.num_classes == 1


def test_two_classes_may_be_told_apart_by_one_logit(tmp_path):
    experiment = small(
        data=DataConfig(name="rings"),
        objective=detect,
        model=MLP(hidden=(16,), num_classes=1),
        num_steps=300,
        eval_every=0,
        checkpoint_every=0,
        select_by="exact",
    )
    summary = fit(experiment, tmp_path, quiet=True)
    assert summary["test"]["accuracy"] == summary["test"]["exact"] > 0.95


@pytest.mark.slow
def test_samples_and_the_smooth_loss_go_on_where_they_stopped(tmp_path):
    (tmp_path / "text").write_text("abcab dcba. " * 60)
    whole, parts = (
        dataclasses.replace(
            text_experiment(tmp_path / "text", sample_every=2, sample_length=5, smooth_loss=0.9),
            num_steps=steps,
        )
        for steps in (6, 3)
    )
    fit(whole, tmp_path / "whole", quiet=True)
    fit(parts, tmp_path / "parts", quiet=True)
    fit(whole, tmp_path / "parts", quiet=True)
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("whole", "parts")]
    assert samples[0] == samples[1]
    assert [json.loads(line)["step"] for line in samples[0].splitlines()] == [2, 4, 6]
    assert all(len(json.loads(line)["text"]) == 5 for line in samples[0].splitlines())
    smooth = [[r.get("smooth_loss") for r in lines(tmp_path / n)] for n in ("whole", "parts")]
    assert smooth[0][-2] == smooth[1][-2] != smooth[0][0]
